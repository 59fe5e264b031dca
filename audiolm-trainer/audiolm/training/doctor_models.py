"""Checks of the models' files: paths and hashes, mel bins, BEATs, tokenizer, shapes of weights."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig

from audiolm import config_rules
from audiolm.config import Config, ModelConfig
from audiolm.config_file import flatten
from audiolm.models.audio_tokens import check_mel_bins
from audiolm.models.beats import BEATs
from audiolm.models.build import mixes_layers
from audiolm.models.checkpoint import load_checkpoints, load_projector
from audiolm.models.device import choose_device
from audiolm.models.llm import load_tokenizer
from audiolm.models.pretrained import explained_errors
from audiolm.models.quantisation import choose_encoder_dtype
from audiolm.training.data import load_log_mel
from audiolm.training.doctor_findings import Finding, note, ok, problem
from audiolm.training.plan_report import PlannedRun
from audiolm.training.precision import choose_precision

HASHED_BYTES = 2**20  # at each end of a file; whole files of many GB would take minutes
REQUIRED = ("model.llama_path", "model.whisper_path", "model.prompt_path")
REQUIRED_DATA = ("datasets.train_ann_path", "datasets.valid_ann_path")
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
WHISPER_PREFIX = re.compile(r"^(model\.)?encoder\.")


def check_paths(config: Config) -> list[Finding]:
    """Every path that is set: there or not, with hashes of weights."""
    findings = []
    values = flatten(config)
    for option in config_rules.INPUT_PATHS:
        value = values[option]
        entries = value if isinstance(value, list) else [value] if value else []
        if not entries and option in (*REQUIRED, *REQUIRED_DATA):
            text = f"{option} is not set; give it in the file or with --options {option}=PATH"
            findings.append(problem("paths", text))
        for entry in entries:
            path = str(entry.get("path", "") if isinstance(entry, Mapping) else entry)
            findings.append(_check_path(option, path))
    return findings


def _check_path(option: str, path: str) -> Finding:
    place = Path(path)
    if place.exists():
        weights = list_weight_files(place)
        hashes = [f"{file.name} {hash_ends(file)}" for file in weights]
        more = f" (sha256 of size and both ends: {', '.join(hashes)})" if hashes else ""
        missing = _find_missing_shards(place)
        if missing:
            text = f"{option}: {path} lacks {', '.join(missing)}; download the model again"
            return problem("paths", text)
        return ok("paths", f"{option}: {path}{more}")
    if option in config_rules.HUB_PATHS and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return note("paths", f"{option}: {path} is no folder here; it is asked of the hub")
    is_test = option.startswith(("datasets.test_", "model.test_"))
    text = f"{option}: nothing at {path}; correct the path"
    return note("paths", f"{text} before evaluating") if is_test else problem("paths", text)


def list_weight_files(place: Path) -> list[Path]:
    """The weights at a path: the file itself, or those in a folder."""
    files = [place] if place.is_file() else sorted(place.glob("*"))
    return [file for file in files if file.is_file() and file.suffix in WEIGHT_SUFFIXES]


def hash_ends(path: Path) -> str:
    """Twelve digits of the sha256 of a file's size, first MiB and last MiB.

    It tells versions and cut-off downloads apart in no time; a file changed only in its middle it
    does not tell.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(HASHED_BYTES))
        file.seek(max(size - HASHED_BYTES, 0))
        digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()[:12]


def _find_missing_shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def check_mel_bins_agree(config: Config) -> list[Finding]:
    """Whisper's mel bins against those that the data is made with."""
    path = config.model.whisper_path
    if not Path(path).is_dir():
        return [note("mel bins", "not checked: model.whisper_path is no folder here")]
    with explained_errors("model.whisper_path", path):
        expected = AutoConfig.from_pretrained(path).num_mel_bins
    found = load_log_mel(config).num_mel_bins
    check_mel_bins(found, expected)
    return [ok("mel bins", f"{found}, of the data and of Whisper")]


def check_encoder_dtype(config: Config) -> list[Finding]:
    """The number type of `model.encoder_dtype` on this device."""
    device = choose_device(config.run.device)
    frozen = choose_precision(config.run, device).frozen_dtype
    dtype = choose_encoder_dtype(config.model, frozen, device)
    name = str(dtype).removeprefix("torch.")
    if config.model.encoder_dtype == "int8":
        return [ok("encoders", f"linear layers in int8, the rest in {name}")]
    if device.type == "cpu" and dtype != torch.float32:
        text = f"model.encoder_dtype: {name} is very slow on most processors; fp32 is the fast one"
        return [note("encoders", text)]
    return [ok("encoders", name)]


def check_beats(model: ModelConfig) -> list[Finding]:
    """The BEATs file is read whole, and fits its own `cfg`."""
    if not model.beats_path:
        if mixes_layers(model):
            return [ok("BEATs", "model.audio_encoder: whisper_layers takes its place")]
        return [note("BEATs", "no BEATs is configured: Whisper alone hears the clips")]
    if not Path(model.beats_path).is_file():
        return []  # said among the paths
    beats = BEATs.from_checkpoint(model.beats_path)
    size = beats.config
    return [ok("BEATs", f"{size.encoder_layers} layers of width {size.encoder_embed_dim}")]


def check_tokenizer(model: ModelConfig) -> list[Finding]:
    """Every token has a row in the LLM's embedding, up to a new padding token."""
    path = model.llama_path
    if not Path(path).is_dir():
        return [note("tokenizer", "not checked: model.llama_path is no folder here")]
    tokenizer = load_tokenizer(path)
    with explained_errors("model.llama_path", path):
        num_rows = AutoConfig.from_pretrained(path).get_text_config().vocab_size
    text = f"{len(tokenizer)} tokens, the LLM's embedding has {num_rows} rows"
    if len(tokenizer) > num_rows + 1:  # one for [PAD], which is added
        fix = "its tokenizer belongs to another model; download the folder again"
        return [problem("tokenizer", f"model.llama_path: {text}; {fix}")]
    if not tokenizer.eos_token and not model.end_sym:
        fix = "set model.end_sym"
        return [problem("tokenizer", f"{text}, and no end-of-text token to end answers; {fix}")]
    return [ok("tokenizer", text)]


def check_weights_fit(model: ModelConfig, planned: Sequence[PlannedRun]) -> list[Finding]:
    """Shapes in the safetensors files of Whisper and the LLM against their own config.json."""
    if not planned:
        return []  # the plan has said why
    meta = planned[0].sizes.model
    findings = []
    for option, path, module, prefix in (
        ("model.whisper_path", model.whisper_path, meta.speech_encoder, WHISPER_PREFIX),
        ("model.llama_path", model.llama_path, _plain_llm(meta.llama_model), re.compile("^$")),
    ):
        shapes = dict(_iterate_shapes(Path(path)))
        if module is None or not shapes:
            continue
        found = {prefix.sub("", name): shape for name, shape in shapes.items()}
        findings.append(_compare_shapes(option, path, module, found))
    return findings


def _compare_shapes(
    option: str, path: str, module: nn.Module, found: Mapping[str, tuple[int, ...]]
) -> Finding:
    wanted = {
        name.replace(".base_layer.", "."): tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if not any(mark in f".{name}" for mark in (".lora_", "vblora_", ".hra_"))
    }
    missing = [name for name in wanted if name not in found]
    # A padding row is added when the model is loaded.
    wrong = [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found
        and (found[name][1:] != shape[1:] or not 0 <= shape[0] - found[name][0] <= 1)
    ]
    if missing or wrong:
        what = "; ".join([*wrong[:3], *(f"{name} is missing" for name in missing[:3])])
        text = f"{option}: {path} does not fit its own config.json: {what}; download it again"
        return problem("model weights", text)
    return ok("model weights", f"{option}: {len(wanted)} tensors fit config.json")


def _iterate_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes from the headers of a folder's safetensors files.

    Raises:
        OSError: a file that is no safetensors file, or cut short.
    """
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(str(file), framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 (no mapping)
                    yield name, tuple(content.get_slice(name).get_shape())
        except SafetensorError as error:
            raise OSError(f"{file} is damaged or cut short ({error}); download it again") from error


def _plain_llm(llm: Any) -> nn.Module | None:
    """The LLM inside its adapter."""
    if llm is None:
        return None
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def check_trained_weights(model: ModelConfig, planned: Sequence[PlannedRun]) -> list[Finding]:
    """`model.ckpt` and `speech_llama_proj_model` against the shapes of the model."""
    paths = model.ckpt if isinstance(model.ckpt, list) else [model.ckpt] if model.ckpt else []
    files = [str(path) for path in (*paths, model.speech_llama_proj_model) if path]
    if not planned or not all(Path(file).is_file() for file in files):
        return []  # said before: of the plan, or among the paths
    findings, meta = [], planned[0].sizes.model
    with warnings.catch_warnings():
        # Copying into a tensor without memory does nothing, which is all a check needs.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        if model.speech_llama_proj_model:
            load_projector(meta, model.speech_llama_proj_model)
            findings.append(ok("trained weights", "model.speech_llama_proj_model fits"))
        if paths:
            with torch.no_grad():
                report = load_checkpoints(meta, [Path(path) for path in paths])
            text = f"model.ckpt: {len(report.loaded)} tensors fit, {len(report.ignored)} ignored"
            findings.append(ok("trained weights", text))
    return findings
