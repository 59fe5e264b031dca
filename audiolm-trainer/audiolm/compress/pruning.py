"""Drop the least important layers of the LLM or of Whisper's encoder.

In: a configuration and calibration clips with texts. Out: a folder with the smaller model (`llm/`
or `whisper/`, an ordinary transformers folder), `checkpoint.pth` (what was trained, layers
renumbered), `heal.yaml` (a configuration to train on) and `importance.json`.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiolm.compress.calibration import CalibrationClip
from audiolm.compress.importance import (
    LayerImportance,
    build_loss,
    find_layers,
    measure_importance,
)
from audiolm.compress.model_folder import (
    collect_trained,
    copy_config,
    point_into,
    read_stored_dtype,
    save_llm,
    save_trained,
    save_whisper,
    write_config,
)
from audiolm.config import Config
from audiolm.data.outputs import whole_folder
from audiolm.errors import UserError
from audiolm.models.device import choose_device
from audiolm.models.llm import load_llm
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import load_whisper_encoder

LAYER_KEYS = {
    "llm": re.compile(r"^(llama_model\.(?:\w+\.)*?layers\.)(\d+)(\..+)$"),
    "whisper": re.compile(r"^(speech_encoder\.layers\.)(\d+)(\..+)$"),
}
MIX_KEY = "speech_layer_weights"  # of the hidden states before Whisper's layers and after each
MEASURES = {"influence": "influence", "loss": "loss_without"}


@dataclass(frozen=True)
class Pruned:
    """What was measured, which layers went, and the loss (nats per answer token) before, and of
    what was written."""

    part: str
    layers: list[LayerImportance]
    dropped: list[int]
    loss_before: float
    loss_after: float

    @property
    def lines(self) -> list[str]:
        """A table for the user."""
        lines = [f"{'layer':>5}  {'influence':>9}  {'loss without':>12}"]
        for layer in self.layers:
            mark = "  dropped" if layer.index in self.dropped else ""
            numbers = f"{layer.influence:>9.4f}  {layer.loss_without:>12.4f}"
            lines.append(f"{layer.index:>5}  {numbers}{mark}")
        lines.append(
            f"{self.part}: {len(self.layers)} layers before, "
            f"{len(self.layers) - len(self.dropped)} after; loss on the calibration clips "
            f"{self.loss_before:.4f} before, {self.loss_after:.4f} after"
        )
        return lines


def prune(
    config: Config,
    clips: Sequence[CalibrationClip],
    output: str | Path,
    *,
    part: str,
    num_dropped: int,
    measure: str = "influence",
    overwrite: bool = False,
) -> Pruned:
    """Measure the layers, drop `num_dropped` of them, write the folder.

    Args:
        part: llm or whisper.
        measure: influence or loss, see `MEASURES`; those that have least of it go.

    Raises:
        UserError: not so many layers to drop, adapter options that count layers, or the output is
            there already.
    """
    if config.model.adapter_options.get("layers_to_transform") is not None:
        raise UserError(
            "model.adapter_options.layers_to_transform counts layers, whose numbers pruning "
            "changes; merge the adapter first (python -m audiolm.compress merge)"
        )
    device = choose_device(config.run.device)
    model = SALMONN.from_config(copy_config(config, merge_adapter=False).model, device=device)
    num_layers = len(find_layers(model, part))
    if num_dropped >= num_layers:
        raise UserError(
            f"--num-layers {num_dropped}: {part} has {num_layers} layers, of which at most "
            f"{num_layers - 1} can go"
        )
    loss_before, layers = measure_importance(model, part, clips)
    least = sorted(layers, key=lambda layer: getattr(layer, MEASURES[measure]))[:num_dropped]
    dropped = sorted(layer.index for layer in least)
    kept = [layer.index for layer in layers if layer.index not in dropped]
    trained = renumber_layers(collect_trained(model), part, kept)
    tokenizer = model.llama_tokenizer
    del model
    with whole_folder(output, overwrite=overwrite) as folder:
        if part == "llm":
            _write_llm(config, tokenizer, kept, folder / "llm")
        else:
            _write_whisper(config, kept, folder / "whisper")
        save_trained(trained, folder / "checkpoint.pth")
        smaller = _write_healing(config, part, dropped, folder)
        pruned_model = SALMONN.from_config(point_into(smaller, folder).model, device=device)
        loss_after = build_loss(pruned_model, part, clips)()
        result = Pruned(part, layers, dropped, loss_before, loss_after)
        text = json.dumps(dataclasses.asdict(result), indent=2)
        (folder / "importance.json").write_text(text + "\n", encoding="utf-8")
    return result


def renumber_layers(
    state: Mapping[str, torch.Tensor], part: str, kept: Sequence[int]
) -> dict[str, torch.Tensor]:
    """A checkpoint's weights without those of dropped layers; the others count from 0."""
    numbers = {old: new for new, old in enumerate(kept)}
    renumbered = {}
    for key, value in state.items():
        match = LAYER_KEYS[part].match(key)
        if key == MIX_KEY and part == "whisper":
            renumbered[key] = renumber_mix(value, kept)
        elif match is None:
            renumbered[key] = value
        elif (old := int(match[2])) in numbers:
            renumbered[f"{match[1]}{numbers[old]}{match[3]}"] = value
    return renumbered


def renumber_mix(weights: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Weights (layers + 1,) of a mix of hidden states, for the kept layers: (kept + 1,).

    A dropped layer's share goes to the state that would have entered it, which is what the mix
    would find in its place were the layer skipped.
    """
    ends = [*(layer + 1 for layer in kept), len(weights)]
    starts = [0, *ends[:-1]]
    shares = [weights[start:end].logsumexp(0) for start, end in zip(starts, ends, strict=True)]
    return torch.stack(shares)


def _write_llm(config: Config, tokenizer: Any, kept: Sequence[int], folder: Path) -> None:
    """The LLM's own weights without the dropped layers; what was trained is in the checkpoint."""
    path, token = config.model.llama_path, config.model.token
    dtype = read_stored_dtype(path, token)
    llm = load_llm(path, tokenizer, dtype=dtype, token=token)
    decoder: Any = llm.get_decoder()
    keep_layers(decoder, llm.config.get_text_config(), "num_hidden_layers", kept)
    save_llm(llm, tokenizer, folder, dtype)


def _write_whisper(config: Config, kept: Sequence[int], folder: Path) -> None:
    encoder = load_whisper_encoder(config.model.whisper_path, token=config.model.token)
    keep_layers(encoder, encoder.config, "encoder_layers", kept)
    encoder.config.num_hidden_layers = len(kept)  # transformers' second name of it
    save_whisper(encoder, config, folder)


def keep_layers(owner: Any, model_config: Any, option: str, kept: Sequence[int]) -> None:
    """Drop layers in place, and what the model's configuration lists per layer."""
    num_layers = len(owner.layers)
    owner.layers = nn.ModuleList(owner.layers[index] for index in kept)
    for name, value in model_config.to_dict().items():
        if name.endswith("layer_types") and isinstance(value, list) and len(value) == num_layers:
            setattr(model_config, name, [value[index] for index in kept])
    setattr(model_config, option, len(kept))


def _write_healing(config: Config, part: str, dropped: Sequence[int], folder: Path) -> Config:
    place = {"llm": {"llama_path": "llm"}, "whisper": {"whisper_path": "whisper"}}[part]
    smaller = copy_config(
        config, ckpt="checkpoint.pth", speech_llama_proj_model="", merge_adapter=False, **place
    )
    if part == "whisper":
        smaller.datasets.whisper_path = ""
    smaller.run.exp_name = f"{config.run.exp_name or 'pruned'}_heal"
    smaller.run.evaluate = False
    write_config(
        smaller,
        folder / "heal.yaml",
        f"Dropped from the {part}: layers {', '.join(map(str, dropped))}. Train on to heal:\n"
        "python audiolm-trainer/train.py --cfg-path heal.yaml\n"
        "Relative paths are looked for from the current directory, then from this folder.",
    )
    return smaller
