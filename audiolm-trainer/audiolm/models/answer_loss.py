"""Cross-entropy of the answer tokens, without logits for anything else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from audiolm.models.splice import IGNORED_LABEL, LlmInputs


@dataclass(frozen=True)
class AnswerLoss:
    """`loss` is a scalar mean over `total` answer tokens; `correct` of them were the argmax.

    The same by row (B,), without gradients: `row_losses` in summed nats, `row_correct` and
    `row_totals` in tokens.
    """

    loss: torch.Tensor
    correct: float
    total: int
    row_losses: torch.Tensor
    row_correct: torch.Tensor
    row_totals: torch.Tensor


def compute_answer_loss(llm: Any, inputs: LlmInputs) -> AnswerLoss:
    """Run the LLM over spliced rows. B rows of S positions, V vocabulary entries."""
    targets = inputs.labels[:, 1:]
    is_target = targets != IGNORED_LABEL  # (B, S - 1)
    columns = is_target.any(0).nonzero()[:, 0]
    logits = llm(
        inputs_embeds=inputs.inputs_embeds,
        attention_mask=inputs.attention_mask,
        logits_to_keep=columns,
        use_cache=False,
    ).logits  # (B, columns, V)
    is_kept = is_target[:, columns]
    logits = logits[is_kept].float()  # (total, V)
    targets = targets[:, columns][is_kept]
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")  # (total,)
    is_correct = logits.detach().argmax(-1) == targets
    return AnswerLoss(
        losses.mean(),
        float(is_correct.sum()),
        targets.numel(),
        row_losses=_sum_rows(losses.detach(), is_kept),
        row_correct=_sum_rows(is_correct, is_kept),
        row_totals=is_kept.sum(1),
    )


def _sum_rows(values: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    """Values (total,) of the places that `is_kept` (B, columns) marks -> their sum per row (B,)."""
    placed = values.new_zeros(is_kept.shape)
    placed[is_kept] = values
    return placed.sum(1)  # in a fixed order, unlike a scattered sum on a GPU
