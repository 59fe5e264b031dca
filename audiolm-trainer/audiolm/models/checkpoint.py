"""Checkpoints of the SALMONN family: trained weights only, under SALMONN's key names.

A file is `{"model", "optimizer", "config", "scaler", "epoch"}` or a bare state dict. Reading is
strict: each key is used, known junk, or an error that lists every bad key. Writing is atomic.
"""

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from audiolm.errors import UserError
from audiolm.models.key_names import from_file_key, is_junk, to_file_key

CONNECTOR = (
    "speech_Qformer.", "speech_query_tokens", "speech_layer_weights", "speech_llama_proj.", "ln_",
)  # fmt: skip
PRETRAINED = ("speech_encoder", "beats", "llama_model")  # parts with weights files of their own
ADAPTER_MARKS = {"lora": ".lora_", "vblora": "vblora_", "hra": ".hra_"}

# What reading a damaged or foreign pickle has been seen to raise.
DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, ImportError,
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip

# What a dimension of a weight says about the model: part of its file key, dimension, meaning.
SIZES = (
    ("speech_query_tokens", 1, "Nq (model.num_speech_query_token)"),
    ("speech_query_tokens", 2, "model.qformer.hidden_size"),
    ("intermediate_query.dense.weight", 0, "model.qformer.intermediate_size"),
    ("speech_layer_weights", 0, "hidden states of Whisper's layers (model.whisper_path)"),
    ("crossattention.self.key.weight", 1, "W (width of Whisper plus BEATs)"),
    ("speech_llama_proj.weight", 0, "H (width of the LLM, model.llama_path)"),
    (".lora_A.", 0, "model.lora_rank"),
    ("vblora_vector_bank", 0, "model.adapter_options.num_vectors"),
    ("vblora_vector_bank", 1, "model.adapter_options.vector_length"),
    ("speech_encoder.conv1.weight", 1, "mel bins (model.whisper_path)"),
)


@dataclass
class KeyReport:
    """What a checkpoint's keys were: module names loaded, and file keys that were not.

    `misshaped` holds the shapes in the file and in the model; `packed` are whole weights for what
    the model holds in 8 bits.
    """

    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One phrase per kind of problem; empty when the checkpoint fits."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "for weights kept in 8 bits (model.encoder_dtype, model.quantization)": self.packed,
            "misshaped": [
                f"{key} (file {in_file}, model {in_model})"
                for key, (in_file, in_model) in self.misshaped.items()
            ],
        }
        return [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in kinds.items() if keys]


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """File key -> tensor of everything that trains, each tensor once."""
    return {
        to_file_key(name): parameter.detach()
        for name, parameter in _unique_parameters(model).items()
        if parameter.requires_grad
    }


def _unique_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Named parameters without aliases; a shared VB-LoRA bank goes by its shortest name."""
    shortest: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        known = shortest.setdefault(id(parameter), name)
        if "vector_bank" in name and len(name) < len(known):
            shortest[id(parameter)] = name
    names = set(shortest.values())
    return {name: parameter for name, parameter in parameters.items() if name in names}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    *,
    optimizer: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    scaler: Mapping[str, Any] | None = None,
    epoch: int = 0,
) -> None:
    """Write what trains, and the training state, in one atomic step.

    `config` must not hold secrets: it is written as it is.
    """
    content = {
        "model": trainable_state(model),
        "optimizer": dict(optimizer or {}),
        "config": dict(config or {}),
        "scaler": dict(scaler) if scaler else None,
        "epoch": epoch,
    }
    write_atomically(path, content)


def write_atomically(path: Path, content: Any) -> None:
    """`torch.save` beside `path`, to disk, then into its place: no reader sees half a file.

    Raises:
        OSError: the disk is full or cannot be written; what was at `path` is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:  # torch's own word for a write that failed
        cause = error.__context__  # the system's, such as "No space left on device"
        reason = str(error).splitlines()[0]
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        raise OSError(f"{path}: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's content; a bare state dict comes back under "model".

    Raises:
        UserError: no such file, not a torch file, or one that would run code when read.
    """
    if not path.is_file():
        raise UserError(f"model.ckpt: no file at {path}")
    try:
        # Files of torch before 1.6 are no zip archives, and cannot be memory-mapped.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except DAMAGE as error:
        why = f"it is damaged or no torch file ({type(error).__name__})"
        if "weights_only" in str(error) or isinstance(error, pickle.UnpicklingError):
            why = "it holds more than tensors and plain values, or is no torch file"
        raise UserError(f"model.ckpt: {path} cannot be read as a checkpoint: {why}") from error
    if not isinstance(content, dict):
        raise UserError(f"model.ckpt: {path} holds a {type(content).__name__}, not a state dict")
    if not isinstance(content.get("model"), dict):
        content = {"model": content}
    return content


def load_checkpoints(model: nn.Module, paths: Sequence[Path]) -> KeyReport:
    """Read files in order into the model; together they must hold everything that was trained.

    Raises:
        UserError: a key that is missing, unexpected or of the wrong shape; all are listed.
    """
    report = KeyReport()
    for path in paths:
        _load_state(model, read_checkpoint(path)["model"], report)
    found = {*report.loaded, *(from_file_key(key) for key in report.misshaped)}
    report.missing = sorted(to_file_key(name) for name in _required_names(model, found) - found)
    if report.problems:
        where = ", ".join(str(path) for path in paths)
        hints = "".join(f"; {hint}" for hint in _explain(model, report))
        raise UserError(f"model.ckpt: {where} does not fit{hints}; {'; '.join(report.problems)}")
    return report


def _required_names(model: nn.Module, found: set[str]) -> set[str]:
    """What the files must hold, given what they do: connector and adapter always; of an encoder
    or the LLM, which have weights files of their own, all that trains or nothing."""
    begun = {
        name.partition(".")[0] for name in found if not _is_adapter(name) and not is_junk(name)
    }
    required = set()
    for name, parameter in _unique_parameters(model).items():
        part = name.partition(".")[0]
        if part not in PRETRAINED or _is_adapter(name) or part in begun:
            is_wanted = parameter.requires_grad or name.startswith(CONNECTOR)
            required |= {name} if is_wanted else set()
    return required


def _load_state(model: nn.Module, state: Mapping[str, Any], report: KeyReport) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unique = {id(p): name for name, p in _unique_parameters(model).items()}
    targets = {**dict(model.named_buffers()), **parameters}
    has_llm = any(name.startswith("llama_model.") for name in parameters)
    for key, value in state.items():
        name = from_file_key(key)
        target = targets.get(name)
        is_alias = unique.get(id(target), name) != name  # of a tied or shared tensor
        is_trained = name in parameters and parameters[name].requires_grad and not is_alias
        is_of_absent_llm = not has_llm and name.startswith("llama_model.")
        if (is_junk(key) and not is_trained) or is_of_absent_llm:
            report.ignored.append(key)
        elif target is None or not isinstance(value, torch.Tensor):
            report.unexpected.append(key)
        elif target.dtype == torch.int8:
            report.packed.append(key)
        elif target.shape != value.shape:
            report.misshaped[key] = tuple(value.shape), tuple(target.shape)
        else:
            if not isinstance(target, DTensor):  # a sharded one is frozen, and was loaded before
                with torch.no_grad():
                    target.copy_(value)
            report.loaded.append(unique.get(id(target), name))


def _explain(model: nn.Module, report: KeyReport) -> list[str]:
    """What the bad keys mean together, most useful first."""
    hints = []
    names = [name for name, _ in model.named_parameters()]
    offered = _adapter_kind(report.unexpected)
    expected = _adapter_kind(names)
    if offered and offered != expected:
        hints.append(
            f"the file holds {offered} weights, the model has adapter {expected or 'none'}: "
            f"set model.adapter: {offered}"
        )
    if "speech_layer_weights" in report.unexpected:
        hints.append("the file mixes Whisper's layers: set model.audio_encoder: whisper_layers")
    if "speech_layer_weights" in report.missing:
        hints.append(
            "the model mixes Whisper's layers, the file does not: set model.audio_encoder: beats "
            "or none, as it was trained"
        )
    for mark, dimension, meaning in SIZES:
        shapes = [shapes for key, shapes in report.misshaped.items() if mark in key]
        sizes = {(a[dimension], b[dimension]) for a, b in shapes if len(a) == len(b) > dimension}
        in_file, in_model = min(sizes, default=(0, 0))
        if in_file != in_model:
            hints.append(f"{meaning} is {in_file} in the file and {in_model} in the model")
    return hints


def _is_adapter(name: str) -> bool:
    return any(mark in name for mark in ADAPTER_MARKS.values())


def _adapter_kind(names: Sequence[str]) -> str:
    """lora, vblora, hra, or empty, by what the names contain."""
    kinds = (kind for kind in ("vblora", "hra", "lora"))
    return next((k for k in kinds if any(ADAPTER_MARKS[k] in name for name in names)), "")


def load_projector(model: nn.Module, path: str) -> None:
    """Load `speech_llama_proj_model`: a file with the projector's weight and bias.

    Raises:
        UserError: no such file, or weights of another shape.
    """
    state = read_checkpoint(Path(path))["model"]
    projector = model.get_submodule("speech_llama_proj")
    wanted = {key.rpartition(".")[2]: value for key, value in state.items() if "llama_proj" in key}
    try:
        projector.load_state_dict(wanted or state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.speech_llama_proj_model: {path} does not fit: {reason}") from error
