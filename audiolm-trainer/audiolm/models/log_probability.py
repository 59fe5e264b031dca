"""How likely the LLM finds an answer, given its prompt: one pass over both together.

Letters: B clips, S prompt positions, A answer tokens of the longest answer, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from audiolm.models.splice import LlmInputs

TOKENS_AT_ONCE = 512  # answer tokens whose distributions over the vocabulary are held in memory


@torch.no_grad()
def measure_log_probabilities(
    llm: Any, inputs: LlmInputs, answers: Sequence[Sequence[int]]
) -> list[float]:
    """Sum of the log probabilities of each answer's ids after its prompt row (padded left)."""
    length = max((len(ids) for ids in answers), default=0)
    rows_at_once = max(1, TOKENS_AT_ONCE // max(length, 1))
    sums: list[float] = []
    for start in range(0, len(answers), rows_at_once):
        rows = slice(start, start + rows_at_once)
        sums += _measure_rows(llm, inputs.take_rows(rows), answers[rows])
    return sums


def _measure_rows(llm: Any, inputs: LlmInputs, answers: Sequence[Sequence[int]]) -> list[float]:
    length = max(len(ids) for ids in answers)
    if length == 0:
        return [0.0] * len(answers)
    mask = inputs.attention_mask
    ids = torch.zeros(len(answers), length, dtype=torch.long, device=mask.device)  # (B, A)
    is_real = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, dtype=torch.long)
        is_real[row, : len(answer)] = 1
    embeds = torch.cat([inputs.inputs_embeds, llm.get_input_embeddings()(ids)], dim=1)
    mask = torch.cat([mask, is_real], dim=1)  # (B, S + A)
    logits = llm(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, :-1]  # (B, A, V)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), ids, reduction="none"
    )
    return (-(losses * is_real).double().sum(1)).tolist()
