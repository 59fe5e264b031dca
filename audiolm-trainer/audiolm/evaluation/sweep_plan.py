"""What a sweep compares: a YAML with a base configuration and named settings.

    base: salmonn_eval_config.yaml      # from this file's folder, or the current one
    options: {model.ckpt: best.pth}     # overrides of every setting
    quality: [asr, aac]                 # scored on datasets.test_ann_path_asr and _aac
    rounds: 3                           # every setting once per round
    num_it: 20                          # measured answers of a setting per round
    num_warmup: 5
    new_tokens: 64
    batch_size: 1
    audio: []                           # files to time; none: a synthetic voice
    seconds: [10]
    task: asr                           # whose prompt is asked while timing
    settings:
      exact: {}
      light: {model.audio_tokens: length_aware, model.whisper_input: trimmed}

In: such a file. Out: a `SweepPlan`, every setting's configuration checked, so that a mistake in the
last setting shows before the first one runs. Nothing here imports torch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from audiolm.config import Config
from audiolm.config_file import load_config, plain_config, resolve_input_paths
from audiolm.errors import UserError

QUALITY_TASKS = ("asr", "aac")
NAME = re.compile(r"[\w.+-]+")
NEEDED = ("model.llama_path", "model.whisper_path", "model.test_prompt_path")
COUNTS = {"rounds": 1, "num_it": 1, "num_warmup": 0, "new_tokens": 2, "batch_size": 1}


@dataclass(frozen=True)
class SweepFile:
    """The YAML's keys and their defaults; see the module's text."""

    base: str
    settings: dict[str, dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    quality: list[str] = field(default_factory=lambda: list(QUALITY_TASKS))
    rounds: int = 3
    num_it: int = 20
    num_warmup: int = 5
    new_tokens: int = 64
    batch_size: int = 1
    audio: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    task: str = "asr"


@dataclass(frozen=True)
class SweepPlan:
    """What will be run.

    Attributes:
        name: of the sweep: the file's stem.
        file: as it was read.
        configs: by setting, with input paths resolved.
    """

    name: str
    file: SweepFile
    configs: dict[str, Config]

    def describe_file(self) -> dict[str, Any]:
        """The file as plain values, without a hub token."""
        plain = asdict(self.file)
        for options in (plain["options"], *plain["settings"].values()):
            options.pop("model.token", None)
        return plain

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the hub token: what a resumed sweep must agree with."""
        configs = {name: plain_config(config) for name, config in self.configs.items()}
        plain = {"name": self.name, "file": self.describe_file(), "configs": configs}
        return json.loads(json.dumps(plain, default=str))


def load_plan(path: Path, overrides: Sequence[str] = ()) -> SweepPlan:
    """Read a sweep file; `overrides` (`a.b=c`) are for all settings, and win over the file's own
    `options`. What a setting says itself wins over both: it is what the setting is about.

    Raises:
        UserError: anything wrong with it, with its base, or with a setting.
    """
    file = _read_file(path)
    base = next((p for p in (path.parent / file.base, Path(file.base)) if p.is_file()), None)
    if base is None:
        raise UserError(f"{path}: base: no file {file.base} beside it or in {Path.cwd()}")
    configs = {}
    for name, options in file.settings.items():
        words = [*_as_words(file.options), *overrides, *_as_words(options)]
        try:
            config = load_config(base, words)
            resolve_input_paths(config, base.resolve().parent, _list_needed(config, file.quality))
        except UserError as error:
            raise UserError(f"{path}: setting {name}: {error}") from error
        configs[name] = config
    return SweepPlan(path.stem, file, configs)


def _read_file(path: Path) -> SweepFile:
    if not path.is_file():
        raise UserError(f"--sweep: no file at {path} (current directory: {Path.cwd()})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a mapping with base and settings")
    known = [item.name for item in fields(SweepFile)]
    unknown = sorted(set(map(str, content)) - set(known))
    if unknown:
        raise UserError(f"{path}: unknown keys {', '.join(unknown)}; known: {', '.join(known)}")
    for key in ("base", "settings"):
        if not content.get(key):
            raise UserError(f"{path}: {key} is missing")
    _check(path, content)
    settings = {str(name): dict(options or {}) for name, options in content["settings"].items()}
    given = {key: value for key, value in content.items() if value is not None}
    return SweepFile(**{**given, "settings": settings})


def _check(path: Path, content: Mapping[str, Any]) -> None:
    settings = content["settings"]
    if not isinstance(settings, Mapping):
        raise UserError(f"{path}: settings: expected names with their overrides")
    for name, options in settings.items():
        if not NAME.fullmatch(str(name)):
            raise UserError(f"{path}: settings: {name!r} is no name; use letters, digits, _ . + -")
        if options is not None and not isinstance(options, Mapping):
            raise UserError(f"{path}: settings: {name}: expected overrides like {{model.x: 1}}")
    for key in ("quality", "audio", "seconds"):
        if not isinstance(content.get(key) or [], list):
            raise UserError(f"{path}: {key}: expected a list, like [{content[key]}]")
    quality = content.get("quality", list(QUALITY_TASKS))
    if not quality or not set(quality) <= set(QUALITY_TASKS):
        raise UserError(
            f"{path}: quality: {quality} is not one or both of {', '.join(QUALITY_TASKS)}: speed "
            "is not shown without what it costs"
        )
    for key, minimum in COUNTS.items():
        value = content.get(key, minimum)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise UserError(f"{path}: {key}: {value!r}: give a whole number, {minimum} or more")


def _list_needed(config: Config, quality: Sequence[str]) -> list[str]:
    datasets = config.datasets
    own = {"asr": datasets.test_ann_path_asr, "aac": datasets.test_ann_path_aac}
    return [
        *NEEDED,
        *(
            f"datasets.test_ann_path_{task}" if own[task] else "datasets.test_ann_path"
            for task in quality
        ),
    ]


def _as_words(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in options.items()]
