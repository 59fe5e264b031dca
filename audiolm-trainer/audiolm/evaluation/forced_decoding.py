"""Decoding of a fixed number of tokens, split where the first token is known.

In: the LLM's input rows. Out: token ids, the same that transformers' `generate` gives when it is
made to write exactly as many. The loop is the one that answers (`models.greedy`); here no rule
ends it.

Letters: B rows, S prompt positions, N new tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from audiolm.errors import UserError
from audiolm.models.greedy import DecodeState, TokenLoop, build_processors
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.splice import LlmInputs


class ForcedDecoder:
    """Greedy decoding that never stops early.

    Args:
        llm: a causal LLM, with or without adapter.
        stop_ids: tokens that may not be written, as with `min_new_tokens` of transformers.
        num_new_tokens: N.
        prefixes: keeps what comes before the audio from one prefill to the next.
        is_compiled: see `TokenLoop`.
    """

    def __init__(
        self,
        llm: Any,
        stop_ids: Sequence[int],
        num_new_tokens: int,
        prefixes: PrefixCache | None = None,
        *,
        is_compiled: bool = False,
    ) -> None:
        processors = build_processors(
            llm.device, min_new_tokens=num_new_tokens, stop_ids=tuple(stop_ids)
        )
        self._loop = TokenLoop(llm, num_new_tokens, processors, is_compiled=is_compiled)
        self._prefixes = prefixes

    def prefill(
        self, inputs: LlmInputs, on_logits: Callable[[], None] | None = None
    ) -> DecodeState:
        """Read the prompt rows (B, S, H), padded left, and choose the first token.

        `on_logits` is called between the two.

        Raises:
            UserError: prompt and answer are longer than the LLM's context.
        """
        self._check_context(inputs.attention_mask.shape[1])
        return self._loop.prefill(inputs, on_logits, self._prefixes)

    def decode(
        self, state: DecodeState, on_token: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Write the remaining tokens, one per step, on the prompt's own cache: -> (B, N).

        `on_token` is called after each.
        """
        while state.num_new < self._loop.max_new_tokens:
            self._loop.advance(state)
            if on_token is not None:
                on_token()
        return state.ids

    def _check_context(self, num_positions: int) -> None:
        limit = getattr(self._loop.step.config, "max_position_embeddings", None)
        num_new_tokens = self._loop.max_new_tokens
        if limit is not None and num_positions + num_new_tokens > limit:
            raise UserError(
                f"--new_tokens {num_new_tokens}: a prompt of {num_positions} positions and "
                f"the answer exceed the LLM's {limit} positions; "
                f"at most {max(limit - num_positions, 0)} new tokens fit"
            )
