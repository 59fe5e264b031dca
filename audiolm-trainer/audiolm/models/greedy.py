"""Decoding one token after the other with the LLM's own modules: the loop of the toolkit.

In: the LLM's input rows. Out: the ids that transformers' `generate` gives with one beam, by the
same processors of scores. The prompt is read once, with the scores of its last position alone; the
cache has its room from the start; and nothing is fetched from a GPU between two looks at what was
written, every `LOOK_EVERY` tokens there. What a row wrote after its end in between is cut off.

Letters: B rows, S prompt positions, N most new tokens, n new tokens so far, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from audiolm.models.compiled_step import CompiledStep
from audiolm.models.kv_cache import build_cache, sees_every_position
from audiolm.models.lean_step import LeanStep
from audiolm.models.llm import CausalStep
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.splice import LlmInputs
from audiolm.models.stopping import RowRules

LOOK_EVERY = {"cuda": 8}  # tokens between two looks for ends, by device; elsewhere after each


@dataclass
class DecodeState:
    """Where decoding stands.

    Attributes:
        ids: (B, N) new token ids; the first `num_new` are written.
        num_new: n.
        cache: keys and values of every position read so far.
        mask: (B, S + N), 1 = real; the new positions are all real. None when no row is padded.
        positions: (B, 1) position of the next id that the LLM reads.
    """

    ids: torch.Tensor
    num_new: int
    cache: DynamicCache
    mask: torch.Tensor | None
    positions: torch.Tensor

    @property
    def written(self) -> torch.Tensor:
        """(B, n)."""
        return self.ids[:, : self.num_new]


class TokenLoop:
    """Writes at most `max_new_tokens` tokens per row, each the best by its processed scores.

    Args:
        llm: a causal LLM, with or without adapter.
        max_new_tokens: N.
        processors: of scores; see `build_processors`.
        is_compiled: tokens after the first by `torch.compile`; `check_compilable` says of which.
    """

    def __init__(
        self,
        llm: Any,
        max_new_tokens: int,
        processors: LogitsProcessorList | None = None,
        *,
        is_compiled: bool = False,
    ) -> None:
        self.step = CausalStep(llm)
        kind = CompiledStep if is_compiled else LeanStep
        self.lean_step = kind(llm) if LeanStep.fits(llm) else None
        self.max_new_tokens = max_new_tokens
        self.processors = processors or LogitsProcessorList()

    @torch.no_grad()
    def prefill(
        self,
        inputs: LlmInputs,
        on_logits: Callable[[], None] | None = None,
        prefixes: PrefixCache | None = None,
    ) -> DecodeState:
        """Read the prompt rows (B, S, H), padded left, and choose the first token.

        `on_logits` is called between the two. `prefixes` saves reading what comes before the audio.
        """
        mask = inputs.attention_mask
        num_rows, num_positions = mask.shape
        cache = build_cache(self.step.config, num_positions + self.max_new_tokens)
        num_known = 0
        if prefixes is not None:
            num_known = prefixes.fill(self.step, cache, inputs.prefix_ids, num_rows)
            # a row's padding comes behind its prefix now; as many positions as before
            mask = torch.cat([mask.new_ones(num_rows, num_known), mask], 1)[:, :num_positions]
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # (B, S)
        logits = self.step(
            cache,
            positions[:, num_known:],
            mask,
            inputs_embeds=inputs.inputs_embeds[:, num_known:],
            logits_to_keep=1,
        )
        if on_logits is not None:
            on_logits()
        is_padded = bool((mask == 0).any())
        new_mask = mask.new_ones(num_rows, self.max_new_tokens)
        state = DecodeState(
            ids=mask.new_zeros(num_rows, self.max_new_tokens),
            num_new=0,
            cache=cache,
            mask=torch.cat([mask, new_mask], dim=1) if is_padded else None,
            positions=positions[:, -1:] + 1,
        )
        self._choose(state, logits)
        return state

    @torch.no_grad()
    def advance(self, state: DecodeState) -> None:
        """Read the last token and choose the next."""
        sees_all = self.step.takes_full_mask and sees_every_position(state.cache)
        mask = None
        if state.mask is not None:
            num_positions = state.mask.shape[1] - self.max_new_tokens
            mask = state.mask[:, : num_positions + state.num_new]
            if sees_all:
                mask = mask[:, None, None].bool()  # as the layers want it: nothing to build
        last = state.ids[:, state.num_new - 1 : state.num_new]
        if self.lean_step is not None and sees_all:
            logits = self.lean_step(state.cache, state.positions, mask, last)
        else:
            logits = self.step(state.cache, state.positions, mask, input_ids=last)
        state.positions = state.positions + 1
        self._choose(state, logits)

    def write_until(self, state: DecodeState, rules: RowRules, pad_id: int) -> torch.Tensor:
        """Tokens (B, n) up to the end of the longest row; after its end a row has `pad_id`."""
        (rows,) = deque(self._watch(state, rules, look_every(state.ids.device)), maxlen=1)
        length = max(len(row) for row in rows)
        padded = [row + [pad_id] * (length - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=state.ids.device)

    def stream(
        self, inputs: LlmInputs, rules: RowRules, prefixes: PrefixCache | None = None
    ) -> Iterator[list[int]]:
        """New ids of one row, as soon as they are there."""
        assert len(inputs.attention_mask) == 1
        num_given = 0
        for (row,) in self._watch(self.prefill(inputs, prefixes=prefixes), rules, 1):
            yield row[num_given:]
            num_given = len(row)

    def _watch(self, state: DecodeState, rules: RowRules, every: int) -> Iterator[list[list[int]]]:
        """Write on, and every few tokens give each row's ids up to its end, until all have one."""
        rows: list[list[int]] = [[] for _ in state.ids]
        is_done = [False] * len(rows)
        while True:
            num_seen, num_new = max(map(len, rows)), state.num_new
            for row, new_ids in enumerate(state.ids[:, num_seen:num_new].tolist()):
                for token in new_ids:
                    if is_done[row]:
                        break
                    rows[row].append(token)
                    is_done[row] = rules.ends(row, rows[row])
            yield rows
            if all(is_done) or num_new == self.max_new_tokens:
                return
            for _ in range(min(every, self.max_new_tokens - num_new)):
                self.advance(state)

    def _choose(self, state: DecodeState, logits: torch.Tensor) -> None:
        """Scores (B, 1, V) -> one more id in `state.ids`."""
        scores = logits[:, -1].float()
        if self.processors:
            scores = self.processors(state.written, scores)  # type: ignore[arg-type]
        state.ids[:, state.num_new] = scores.argmax(-1)
        state.num_new += 1


class NoEarlyEnd(LogitsProcessor):
    """A row of fewer than `min_new_tokens` cannot end.

    transformers' own looks for the end tokens in the whole vocabulary at every token, whether or
    not there are enough: 0.6 ms of a step's 20 for 32,000 entries on two cores.
    """

    def __init__(self, stop_ids: torch.Tensor, min_new_tokens: int) -> None:
        self._stop_ids = stop_ids
        self._min_new_tokens = min_new_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """New ids (B, n) and scores (B, V) of the next -> scores (B, V)."""
        if input_ids.shape[1] >= self._min_new_tokens:
            return scores
        return scores.index_fill(1, self._stop_ids, float("-inf"))


def build_processors(
    device: torch.device,
    *,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
    stop_ids: Sequence[int] = (),
    samplers: LogitsProcessorList | None = None,
) -> LogitsProcessorList:
    """transformers' processors of scores, or their equals, in its order; `samplers` come last."""
    processors = LogitsProcessorList()
    if repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if min_new_tokens > 0 and stop_ids:
        processors.append(NoEarlyEnd(torch.tensor(stop_ids, device=device), min_new_tokens))
    processors.extend(samplers or ())
    return processors


def look_every(device: torch.device) -> int:
    """Tokens between two looks at what was written."""
    return LOOK_EVERY.get(device.type, 1)
