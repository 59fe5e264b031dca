"""Add the adapter into the LLM, so that answering needs neither the adapter nor peft.

In: a configuration and calibration clips. Out: a folder with `llm/`, `connector.pth` and
`config.yaml`. What was written is read again and compared with the original model before it is
called done: the logits of the original's own greedy answers, and the greedy answers.

Letters: S positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audiolm.compress.calibration import CalibrationClip
from audiolm.compress.model_folder import (
    choose_stored_dtype,
    collect_trained,
    copy_config,
    point_into,
    save_llm,
    save_trained,
    write_config,
)
from audiolm.config import Config
from audiolm.data.outputs import whole_folder
from audiolm.errors import UserError
from audiolm.models.adapter import is_adapted
from audiolm.models.build import resolve_adapter
from audiolm.models.device import choose_device, move_to
from audiolm.models.salmonn import SALMONN

# Largest change of a logit as a share of the largest logit, by the type weights are stored in.
LOGIT_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
GREEDY = {"num_beams": 1, "do_sample": False, "max_new_tokens": 40}


@dataclass(frozen=True)
class Tolerances:
    """What may change: a logit, as a share of the largest (None: by the stored type); texts, as a
    share of the clips."""

    logits: float | None = None
    texts: float = 0.0


@dataclass(frozen=True)
class Drift:
    """How far the written model is from the original: largest change of a logit over the largest
    logit; clips, and those with another greedy answer."""

    logits: float
    num_clips: int
    num_changed_texts: int

    @property
    def lines(self) -> list[str]:
        """For the user."""
        same = self.num_clips - self.num_changed_texts
        return [
            f"compared on {self.num_clips} clips: logits moved by at most {self.logits:.1e} of the "
            f"largest; {same} of {self.num_clips} greedy answers are the same"
        ]


@dataclass(frozen=True)
class Behaviour:
    """A model on the calibration clips: greedy answers, and logits (S, V) of given answers."""

    texts: list[str]
    logits: list[torch.Tensor]


def merge(
    config: Config,
    clips: Sequence[CalibrationClip],
    output: str | Path,
    *,
    dtype: str = "auto",
    tolerances: Tolerances,
    overwrite: bool = False,
) -> Drift:
    """Write the folder and tell how far it is from the original.

    Raises:
        UserError: there is nothing to merge, the result drifts beyond the tolerances, or the
            output is there already. Nothing is written then.
    """
    if resolve_adapter(config.model) == "none" and config.model.freeze_llm:
        raise UserError("model.adapter: none, and a frozen LLM: there is nothing to merge")
    return write_merged(
        config, clips, output, dtype=dtype, tolerances=tolerances, overwrite=overwrite
    )


def write_merged(
    config: Config,
    clips: Sequence[CalibrationClip],
    output: str | Path,
    *,
    dtype: str,
    tolerances: Tolerances,
    overwrite: bool,
    complete: Callable[[Config, Path], Config] = lambda config, folder: config,
) -> Drift:
    """As `merge`; `complete(config, folder)` adds to the folder and to its configuration."""
    stored_dtype = choose_stored_dtype(dtype, config.model.llama_path, config.model.token)
    device = choose_device(config.run.device)
    original = copy_config(config, merge_adapter=False)
    model = SALMONN.from_config(original.model, device=device)
    before = observe(model, clips)
    with whole_folder(output, overwrite=overwrite) as folder:
        merged_config = complete(_save_parts(model, config, folder, stored_dtype), folder)
        write_config(
            merged_config,
            folder / "config.yaml",
            f"The adapter ({resolve_adapter(config.model)}) is in the LLM's weights.\n"
            "Relative paths are looked for from the current directory, then from this folder.",
        )
        del model
        written = SALMONN.from_config(point_into(merged_config, folder).model, device=device)
        drift = compare(before, observe(written, clips, before))
        check_drift(drift, stored_dtype, tolerances)
    return drift


@torch.no_grad()
def observe(
    model: SALMONN, clips: Sequence[CalibrationClip], reference: Behaviour | None = None
) -> Behaviour:
    """Answers, and logits of the reference's answers (of the model's own without one)."""
    device = model.speech_llama_proj.weight.device
    texts = [
        model.generate(move_to(clip.samples, device), GREEDY, [clip.prompt])[0] for clip in clips
    ]
    logits = []
    for clip, text in zip(clips, reference.texts if reference else texts, strict=True):
        inputs = clip.prepare(model, text)
        output = model.llm(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            use_cache=False,
        )
        logits.append(output.logits[0].float().cpu())  # (S, V)
    return Behaviour(texts, logits)


def compare(before: Behaviour, after: Behaviour) -> Drift:
    """How far two behaviours on the same clips are apart."""
    pairs = list(zip(before.logits, after.logits, strict=True))
    moved = [float((a - b).abs().max() / b.abs().max()) for b, a in pairs]
    changed = sum(b != a for b, a in zip(before.texts, after.texts, strict=True))
    return Drift(float(torch.tensor(moved).max()), len(pairs), changed)  # keeps NaN


def check_drift(drift: Drift, dtype: torch.dtype, tolerances: Tolerances) -> None:
    """Refuse what drifted too far.

    Raises:
        UserError: saying by how much.
    """
    given = tolerances.logits
    allowed = LOGIT_TOLERANCES.get(dtype, 5e-2) if given is None else given
    if not drift.logits <= allowed:
        raise UserError(
            f"merging moves the logits by {drift.logits:.1e} of the largest, more than --tolerance "
            f"{allowed:.0e}; store the LLM with --dtype fp32, or allow more. Nothing was written"
        )
    if drift.num_changed_texts > tolerances.texts * drift.num_clips:
        raise UserError(
            f"merging changes the greedy answers of {drift.num_changed_texts} of "
            f"{drift.num_clips} clips, more than --text-tolerance {tolerances.texts:g}; store the "
            "LLM with --dtype fp32, or allow more. Nothing was written"
        )


def _save_parts(model: SALMONN, config: Config, folder: Path, dtype: torch.dtype) -> Config:
    """Write the LLM and the other trained weights; the configuration that names them."""
    trained = collect_trained(model)
    others = {key: value for key, value in trained.items() if not key.startswith("llama_model.")}
    save_trained(others, folder / "connector.pth")
    save_llm(_merge_adapter(model.llm), model.llama_tokenizer, folder / "llm", dtype)
    return copy_config(
        config,
        llama_path="llm",
        ckpt="connector.pth",
        speech_llama_proj_model="",
        adapter="none",
        lora=False,
        adapter_options={},
        merge_adapter=False,
    )


def _merge_adapter(llm: Any) -> Any:
    if not is_adapted(llm):
        return llm
    try:
        return llm.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights that are not finite
        raise UserError(f"the adapter cannot be merged: {error}") from error
