"""Soft targets: how far a student's answer tokens are from what a teacher says of them.

The loss is that of Hinton, Vinyals and Dean (2015, "Distilling the Knowledge in a Neural Network",
section 2): probabilities softened by a temperature T, and T^2 in front, so that the term's gradient
keeps its size when T changes.

Letters: N answer tokens of a batch, row by row; V entries of the vocabulary; K tokens that are
compared one by one, the rest of the vocabulary being one more entry.
"""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of N answer tokens, and how much it counts.

    Args:
        log_probs: of all V entries (N, V), or of K tokens and the rest (N, K + 1), softened.
        token_ids: (N, K), or None where all entries are compared.
        num_entries: V; logits beyond them pad the LLM's last layer and take no part.
        temperature: T, of both sides.
        weight: of the divergence; 1 - weight is the cross-entropy's.
    """

    log_probs: torch.Tensor
    token_ids: torch.Tensor | None
    num_entries: int
    temperature: float
    weight: float


def soften(
    logits: torch.Tensor, num_entries: int, temperature: float, token_ids: torch.Tensor | None
) -> torch.Tensor:
    """Logits (N, >= V) -> log-probabilities (N, V), or of `token_ids` and the rest (N, K + 1)."""
    log_probs = (logits[:, :num_entries].float() / temperature).log_softmax(-1)  # (N, V)
    if token_ids is None:
        return log_probs
    chosen = log_probs.gather(1, token_ids)
    rest = log_probs.scatter(1, token_ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([chosen, rest], dim=1)


def compute_divergence(logits: torch.Tensor, targets: SoftTargets) -> torch.Tensor:
    """T^2 * KL(teacher || student) of each token (N,), in nats, from the student's logits.

    With K tokens it is a lower bound of the divergence over all entries.
    """
    student = soften(logits, targets.num_entries, targets.temperature, targets.token_ids)
    terms = nn.functional.kl_div(student, targets.log_probs, reduction="none", log_target=True)
    return targets.temperature**2 * terms.sum(1)
