"""Greedy decoding of a fixed number of tokens, split where the first token is known.

In: the LLM's input rows. Out: token ids, the same that transformers' `generate` gives when it is
made to write exactly as many. The prompt is read once; its cache serves every later step.

Letters: B rows, S prompt positions, N new tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from audiolm.errors import UserError
from audiolm.models.splice import LlmInputs


@dataclass
class DecodeState:
    """Where decoding stands.

    Attributes:
        ids: (B, n) new token ids so far.
        cache: keys and values of every position read so far, as the LLM made it.
        attention_mask: (B, S + N), 1 = real; the new positions are all real.
        positions: (B, 1) position of the last id.
    """

    ids: torch.Tensor
    cache: Any
    attention_mask: torch.Tensor
    positions: torch.Tensor


class ForcedDecoder:
    """Greedy decoding that never stops early.

    Args:
        llm: a causal LLM, with or without adapter.
        stop_ids: tokens that may not be written, as with `min_new_tokens` of transformers.
        num_new_tokens: N.
    """

    def __init__(self, llm: Any, stop_ids: Sequence[int], num_new_tokens: int) -> None:
        self.llm = llm
        self.num_new_tokens = num_new_tokens
        self._stop_ids = torch.tensor(list(stop_ids), dtype=torch.long, device=llm.device)

    @torch.no_grad()
    def prefill(
        self, inputs: LlmInputs, on_logits: Callable[[], None] | None = None
    ) -> DecodeState:
        """Read the prompt rows (B, S, H), padded left, and choose the first token.

        `on_logits` is called between the two.

        Raises:
            UserError: prompt and answer are longer than the LLM's context.
        """
        num_rows, num_positions = inputs.attention_mask.shape
        self._check_context(num_positions)
        positions = (inputs.attention_mask.cumsum(1) - 1).clamp(min=0)  # (B, S)
        output = self.llm(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        if on_logits is not None:
            on_logits()
        new_mask = inputs.attention_mask.new_ones(num_rows, self.num_new_tokens)
        return DecodeState(
            ids=self._choose(output.logits),
            cache=output.past_key_values,
            attention_mask=torch.cat([inputs.attention_mask, new_mask], dim=1),
            positions=positions[:, -1:] + 1,
        )

    @torch.no_grad()
    def decode(
        self, state: DecodeState, on_token: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Write the remaining tokens, one per step, on the prompt's own cache: -> (B, N).

        `on_token` is called after each.
        """
        num_positions = state.attention_mask.shape[1] - self.num_new_tokens
        ids = [state.ids]
        for step in range(1, self.num_new_tokens):
            output = self.llm(
                input_ids=ids[-1],
                attention_mask=state.attention_mask[:, : num_positions + step],
                position_ids=state.positions + (step - 1),
                past_key_values=state.cache,
                use_cache=True,
            )
            ids.append(self._choose(output.logits))
            if on_token is not None:
                on_token()
        return torch.cat(ids, dim=1)

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, 1, V) -> (B, 1)."""
        scores = logits[:, -1].index_fill(1, self._stop_ids, float("-inf"))
        return scores.argmax(-1, keepdim=True)

    def _check_context(self, num_positions: int) -> None:
        config = self.llm.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and num_positions + self.num_new_tokens > limit:
            raise UserError(
                f"--new_tokens {self.num_new_tokens}: a prompt of {num_positions} positions and "
                f"the answer exceed the LLM's {limit} positions; "
                f"at most {max(limit - num_positions, 0)} new tokens fit"
            )
