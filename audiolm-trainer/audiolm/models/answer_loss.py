"""Loss of the answer tokens, without logits for anything else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from audiolm.models.distillation import SoftTargets, compute_divergence
from audiolm.models.splice import IGNORED_LABEL, LlmInputs


@dataclass(frozen=True)
class AnswerLoss:
    """`loss` is a scalar mean over `total` answer tokens; `correct` of them were the argmax.

    By row (B,), without gradients: `row_losses` is the summed cross-entropy in nats, `row_correct`
    and `row_totals` are in tokens. With a teacher, `loss` is mixed from cross-entropy and
    divergence, and `distil_sum` is the divergence summed over the tokens; else it is 0.
    """

    loss: torch.Tensor
    correct: float
    total: int
    row_losses: torch.Tensor
    row_correct: torch.Tensor
    row_totals: torch.Tensor
    distil_sum: float = 0.0


@dataclass(frozen=True)
class AnswerLogits:
    """Of all answer tokens, row by row: `logits` (total, V) float32 and the token ids `targets`
    (total,). `is_kept` (B, columns) marks their places in the columns that hold any."""

    logits: torch.Tensor
    targets: torch.Tensor
    is_kept: torch.Tensor


def compute_answer_logits(llm: Any, inputs: LlmInputs) -> AnswerLogits:
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
    return AnswerLogits(logits[is_kept].float(), targets[:, columns][is_kept], is_kept)


def compute_answer_loss(
    llm: Any, inputs: LlmInputs, soft_targets: SoftTargets | None = None
) -> AnswerLoss:
    """The loss of spliced rows; with `soft_targets`, a teacher's say on their answer tokens."""
    answers = compute_answer_logits(llm, inputs)
    logits, targets, is_kept = answers.logits, answers.targets, answers.is_kept
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")  # (total,)
    is_correct = logits.detach().argmax(-1) == targets
    loss, distil_sum = losses.mean(), 0.0
    if soft_targets is not None:
        divergences = compute_divergence(logits, soft_targets)  # (total,)
        loss = (1 - soft_targets.weight) * loss + soft_targets.weight * divergences.mean()
        distil_sum = float(divergences.detach().sum())
    return AnswerLoss(
        loss,
        float(is_correct.sum()),
        targets.numel(),
        row_losses=_sum_rows(losses.detach(), is_kept),
        row_correct=_sum_rows(is_correct, is_kept),
        row_totals=is_kept.sum(1),
        distil_sum=distil_sum,
    )


def _sum_rows(values: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    """Values (total,) of the places that `is_kept` (B, columns) marks -> their sum per row (B,)."""
    placed = values.new_zeros(is_kept.shape)
    placed[is_kept] = values
    return placed.sum(1)  # in a fixed order, unlike a scattered sum on a GPU
