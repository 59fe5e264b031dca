"""Cross-entropy of the answer tokens, without logits for anything else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from audiolm.models.splice import IGNORED_LABEL, LlmInputs


@dataclass(frozen=True)
class AnswerLoss:
    """`loss` is a scalar mean over `total` answer tokens; `correct` of them were the argmax."""

    loss: torch.Tensor
    correct: float
    total: int


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
    loss = nn.functional.cross_entropy(logits, targets)
    correct = (logits.detach().argmax(-1) == targets).sum()
    return AnswerLoss(loss, float(correct), targets.numel())
