"""Read configuration files and overrides into `config.Config`, strictly.

In: a YAML path and `--options` words (`a.b=c`, or `a.b c` pairs). Out: `Config` with input paths
resolved. An unknown key, a wrong type or a value out of range is a `UserError` that names the key
and its nearest neighbour; retired keys are accepted with one warning.
"""

import difflib
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from audiolm import config_rules
from audiolm.config import Config, ModelConfig
from audiolm.errors import UserError

logger = logging.getLogger(__name__)

ADAPTERS = ("lora", "dora", "vblora", "hra", "none")


def load_config(
    path: str | Path, overrides: Sequence[str] = (), required: Sequence[str] = ()
) -> Config:
    """Read a YAML file, apply overrides, check everything and resolve its input paths.

    A relative path is looked for from the current directory, then from the file's folder.
    `required` names the path options that the caller is about to read (`"model.whisper_path"`);
    with them must exist, when set, those in `config_rules.READ_ALONG`. Others may point to nothing.

    Raises:
        UserError: missing or malformed file, unknown or ill-typed option, missing required path.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file at {path} (current directory: {Path.cwd()})")
    try:
        raw = OmegaConf.load(path)
        if not isinstance(raw, DictConfig):
            raise UserError(f"{path}: expected sections model, datasets, run, found a list")
        raw = OmegaConf.merge(raw, parse_overrides(overrides))
        content = OmegaConf.to_container(raw, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {error}") from error
    assert isinstance(content, dict)
    config = build_config(content, source=str(path))  # type: ignore[arg-type]
    resolve_input_paths(config, path.resolve().parent, required)
    return config


def parse_overrides(words: Sequence[str]) -> DictConfig:
    """`["a.b=c", "d.e", "f"]` -> a nested config; both forms may be mixed."""
    assignments: list[str] = []
    pending: str | None = None
    for word in words:
        if pending is not None:
            assignments.append(f"{pending}={word}")
            pending = None
        elif "=" in word:
            assignments.append(word)
        else:
            pending = word
    if pending is not None:
        raise UserError(f"--options: '{pending}' has no value; write {pending}=VALUE")
    try:
        return OmegaConf.from_dotlist(assignments)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"--options {' '.join(words)}: {error}") from error


def build_config(content: Mapping[str, Any], source: str = "configuration") -> Config:
    """A checked `Config` from nested plain values; `source` is named in messages."""
    return _build(Config, content, "", source)


def build_model_config(section: ModelConfig | DictConfig | Mapping[str, Any]) -> ModelConfig:
    """A checked `ModelConfig` from a dataclass, an OmegaConf node or a dict."""
    if isinstance(section, ModelConfig):
        section = asdict(section)
    elif OmegaConf.is_config(section):
        section = OmegaConf.to_container(section, resolve=True)  # type: ignore[assignment]
    if not isinstance(section, Mapping):
        raise UserError(f"model: expected a mapping of options, found {type(section).__name__}")
    return _build(ModelConfig, section, "model", "model")


def _build(schema: type, content: Mapping[str, Any], section: str, source: str) -> Any:
    problems: list[str] = []
    retired: list[str] = []
    known = _known_content(schema, content, section, problems, retired)
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}")
    if retired:
        logger.warning("%s: retired options are ignored: %s", source, "; ".join(retired))
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), known))
    except OmegaConfBaseException as error:
        key = ".".join(filter(None, [section, str(getattr(error, "full_key", "") or "")]))
        raise UserError(f"{source}: {key}: {str(error).splitlines()[0]}") from error
    _check_values(built, section, source)
    model: Any = built if schema is ModelConfig else getattr(built, "model", None)
    _resolve_audio_encoder(model, source)
    return built


def _resolve_audio_encoder(model: ModelConfig, source: str) -> None:
    """Clear `beats_path` where `audio_encoder` is another, so that it alone says whether there is
    a BEATs."""
    if model.audio_encoder == "beats" and not model.beats_path:
        raise UserError(
            f"{source}: model.audio_encoder: beats needs model.beats_path, which is empty; give a "
            "BEATs .pt file, or set model.audio_encoder: whisper_layers or none"
        )
    if model.audio_encoder in ("whisper_layers", "none"):
        model.beats_path = ""


def _known_content(
    schema: type,
    content: Mapping[str, Any],
    section: str,
    problems: list[str],
    retired: list[str],
) -> dict[str, Any]:
    """`content` without nulls, aliases and retired keys; unknown keys go to `problems`."""
    types = {f.name: f.type for f in fields(schema)}
    known: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{section}.{name}" if section else str(name)
        key = config_rules.ALIASES.get(key, key)
        name = key.rpartition(".")[2]
        if key in config_rules.RETIRED:
            retired.append(f"{key} (now: {config_rules.RETIRED[key]})")
        elif name not in types:
            near = difflib.get_close_matches(str(name), types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(types)}"
            problems.append(f"unknown option {key}: {hint}")
        elif value is None:
            continue
        elif is_dataclass(types[name]):
            if not isinstance(value, Mapping):
                problems.append(f"{key}: expected a mapping of options, found {value!r}")
                continue
            nested = types[name]
            assert isinstance(nested, type)
            known[name] = _known_content(nested, value, key, problems, retired)
        else:
            known[name] = value
    return known


def _check_values(built: Any, section: str, source: str) -> None:
    values = {key: value for key, value in flatten(built, section).items() if value is not None}
    for key, allowed in config_rules.CHOICES.items():
        if key in values and values[key] not in allowed:
            raise UserError(f"{source}: {key}: {values[key]!r} is none of {', '.join(allowed)}")
    for key, minimum in config_rules.MINIMUMS.items():
        if key in values and values[key] < minimum:
            raise UserError(f"{source}: {key}: {values[key]} is below {minimum:g}")
    for key, maximum in config_rules.MAXIMUMS.items():
        if key in values and values[key] > maximum:
            raise UserError(f"{source}: {key}: {values[key]} is above {maximum:g}")
    for key, (lowest, highest) in config_rules.RANGES.items():
        ends = values.get(key) or [lowest, highest]
        if len(ends) != 2 or not lowest <= ends[0] <= ends[1] <= highest:
            allowed = f"[low, high] between {lowest:g} and {highest:g}, or []"
            raise UserError(f"{source}: {key}: {ends} is not {allowed}")
    adapter = values.get("model.adapter")
    if adapter is not None and not isinstance(adapter, bool) and adapter not in ADAPTERS:
        raise UserError(f"{source}: model.adapter: {adapter!r} is none of {', '.join(ADAPTERS)}")
    for name in values.get("run.loggers", []):
        if name not in ("tensorboard", "wandb"):
            raise UserError(f"{source}: run.loggers: {name!r} is none of tensorboard, wandb")
    try:
        list_corpora(values.get("datasets.train_ann_path"))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def flatten(built: Any, section: str = "") -> dict[str, Any]:
    """Dotted option names -> values of a dataclass (nested dataclasses opened)."""
    flat: dict[str, Any] = {}
    for item in fields(built):
        key = f"{section}.{item.name}" if section else item.name
        value = getattr(built, item.name)
        flat.update(flatten(value, key) if is_dataclass(value) else {key: value})
    return flat


def list_corpora(train_ann_path: Any) -> list[tuple[str, float]]:
    """The value of `datasets.train_ann_path` in its one full form: files and their weights.

    Raises:
        UserError: it is no path, and no list of paths and of `{path: FILE, weight: NUMBER}`.
    """
    entries = train_ann_path if isinstance(train_ann_path, list) else [train_ann_path]
    return [_read_corpus(entry) for entry in entries if entry]


def _read_corpus(entry: Any) -> tuple[str, float]:
    corpus = {"path": entry} if isinstance(entry, str | Path) else entry
    if not isinstance(corpus, Mapping) or not corpus.get("path"):
        raise UserError(
            f"datasets.train_ann_path: {entry!r} is no annotation; "
            "give a path or {path: FILE, weight: NUMBER}"
        )
    for name in corpus:
        if name not in ("path", "weight"):
            raise UserError(
                f"datasets.train_ann_path: {corpus['path']} has the key {name!r}; "
                "allowed: path, weight"
            )
    weight = corpus.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1000:
        raise UserError(
            f"datasets.train_ann_path: {corpus['path']} has the weight {weight!r}; "
            "it must be a number above 0, up to 1000 (1: each clip once per epoch)"
        )
    return str(corpus["path"]), float(weight)


def resolve_input_paths(config: Config, config_dir: Path, required: Sequence[str] = ()) -> None:
    """Make the input paths that exist absolute, in place.

    Raises:
        UserError: one of `required` is empty; or one of them, or of what is read along with them
            (`config_rules.READ_ALONG`), exists neither here nor beside the file and cannot be a hub
            id.
    """
    read = {
        *required,
        *(key for first in required for key in config_rules.READ_ALONG.get(first, ())),
    }
    for key in config_rules.INPUT_PATHS:
        *sections, name = key.split(".")
        holder = functools.reduce(getattr, sections, config)
        value = getattr(holder, name)
        if key in required and not value:
            raise UserError(f"{key} is not set; give it in the file or with --options {key}=PATH")
        setattr(holder, name, _resolve_value(key, value, config_dir, key in read))


def _resolve_value(key: str, value: Any, config_dir: Path, must_exist: bool) -> Any:
    """A path, a list of them, or a mapping with a `path`, resolved; nothing stays nothing."""
    if isinstance(value, list):
        return [_resolve_value(key, item, config_dir, must_exist) for item in value]
    if isinstance(value, Mapping):
        return {**value, "path": _resolve_value(key, value["path"], config_dir, must_exist)}
    return _resolve(key, str(value), config_dir, must_exist) if value else value


def _resolve(key: str, value: str, config_dir: Path, must_exist: bool) -> str:
    places = [Path(value).expanduser()]
    if not places[0].is_absolute():
        places = [Path.cwd() / value, config_dir / value]
    found = [place for place in places if place.exists()]
    if found:
        if not found[0].samefile(found[-1]):
            logger.warning(
                "%s: '%s' is at %s and at %s; the first is taken: give a whole path for the other",
                key, value, found[0], found[1],
            )  # fmt: skip
        return str(found[0])
    is_hub_id = key in config_rules.HUB_PATHS and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", value)
    if must_exist and not is_hub_id:
        looked = " or ".join(str(place) for place in dict.fromkeys(places))
        raise UserError(f"{key}: nothing at {looked}; correct the path (it was '{value}')")
    return value


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, without the hub token."""
    path.write_text(dump_config(config), encoding="utf-8")


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML text, without the hub token."""
    return yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True)


def plain_config(config: Config) -> dict[str, Any]:
    """Nested plain values of the configuration, without the hub token."""
    plain = asdict(config)
    plain["model"].pop("token")
    return plain
