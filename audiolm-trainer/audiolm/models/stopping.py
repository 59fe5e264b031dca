"""When an answer ends, other than by an end token: end symbols, looping and runaway text.

In: new token ids row by row. Out: which rows are done. Every rule looks at its own row alone.

Letters: B clips, R rows (B, or B times the beams of each), S new tokens so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from audiolm.models.llm import stop_token_ids
from audiolm.models.splice import tokenize

# A loop: the same 1 to 16 tokens again and again, over 32 tokens or four times, whichever is more.
MAX_LOOP_PERIOD = 16
MIN_LOOP_TOKENS = 32
MIN_LOOP_TIMES = 4

# Runaway text: more tokens than anybody says or describes in that time. Fast speech has about
# eight tokens a second; the base leaves room for a long caption of a short sound.
BASE_TOKENS = 64
TOKENS_PER_SECOND = 12


class EndTextCriteria(StoppingCriteria):
    """Stops each row by itself once its text holds an end symbol of several tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_text: str) -> None:
        self.tokenizer = tokenizer
        self.end_text = end_text
        self.num_tokens = count_tail(tokenizer, end_text)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """(R, S) token ids -> (R,) True where the row is done."""
        tails = self.tokenizer.batch_decode(input_ids[:, -self.num_tokens :])
        return torch.tensor([self.end_text in tail for tail in tails], device=input_ids.device)


@dataclass(frozen=True)
class RunawayGuard:
    """The most tokens each clip's answer may have; looping ends an answer earlier.

    Attributes:
        limits: one per clip, in the order of the rows.
    """

    limits: tuple[int, ...]

    @classmethod
    def from_seconds(cls, audio_seconds: Sequence[float]) -> "RunawayGuard":
        """Limits by the length of the audio."""
        limits = (BASE_TOKENS + round(TOKENS_PER_SECOND * seconds) for seconds in audio_seconds)
        return cls(tuple(limits))


class RunawayCriteria(StoppingCriteria):
    """Stops each row at its clip's limit, or where it loops."""

    def __init__(self, guard: RunawayGuard) -> None:
        self.guard = guard

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """(R, S) token ids -> (R,) True where the row is done."""
        num_rows, num_tokens = input_ids.shape
        limits = torch.tensor(self.guard.limits, device=input_ids.device)
        is_done = (num_tokens >= limits).repeat_interleave(num_rows // len(limits))
        for period in range(1, MAX_LOOP_PERIOD + 1):
            length = max(MIN_LOOP_TOKENS, MIN_LOOP_TIMES * period)
            if num_tokens >= length:
                tail = input_ids[:, -length:]
                is_done |= (tail[:, period:] == tail[:, :-period]).all(dim=1)
        return is_done


def find_loop(ids: Sequence[int]) -> int | None:
    """How many of the ids come before an answer that ended in a loop begins to repeat itself, its
    first round included; None when it did not loop."""
    for period in range(1, MAX_LOOP_PERIOD + 1):
        length = max(MIN_LOOP_TOKENS, MIN_LOOP_TIMES * period)
        start = len(ids) - length
        if start < 0 or any(ids[i] != ids[i + period] for i in range(start, len(ids) - period)):
            continue
        while start > 0 and ids[start - 1] == ids[start - 1 + period]:
            start -= 1
        return start + period
    return None


@dataclass(frozen=True)
class RowRules:
    """All that may end an answer, by its own ids: for the loop, which looks at rows one by one.

    Attributes:
        tokenizer: for end symbols.
        stop_ids: end tokens.
        end_texts: end symbols of several tokens.
        guard: see `RunawayGuard`; None lets answers run on.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    end_texts: tuple[str, ...] = ()
    guard: RunawayGuard | None = None

    def ends(self, row: int, ids: Sequence[int]) -> bool:
        """Whether the answer of that row ends with the last of its ids."""
        if ids[-1] in self.stop_ids:
            return True
        if self.guard is not None and (
            len(ids) >= self.guard.limits[row] or find_loop(ids) is not None
        ):
            return True
        return any(self._holds(ids, text) for text in self.end_texts)

    def _holds(self, ids: Sequence[int], end_text: str) -> bool:
        return end_text in self.tokenizer.decode(list(ids[-count_tail(self.tokenizer, end_text) :]))


def count_tail(tokenizer: PreTrainedTokenizerBase, end_text: str) -> int:
    """How many of the last tokens hold an end symbol, if it has just been written."""
    return 2 * len(tokenize(tokenizer, end_text)) + 2


@dataclass(frozen=True)
class EndRules:
    """What ends an answer.

    Attributes:
        texts: end symbols, wherever they come from: the `generate` section, the model.
        long_texts: those of several tokens.
        token_ids: every end token of LLM and tokenizer, and end symbols of one token.
    """

    texts: tuple[str, ...]
    long_texts: tuple[str, ...]
    token_ids: tuple[int, ...]

    @classmethod
    def build(cls, llm: Any, tokenizer: PreTrainedTokenizerBase, *texts: str) -> "EndRules":
        """The rules of an LLM and some end symbols; empty ones do not count."""
        given = tuple(dict.fromkeys(filter(None, texts)))
        ids = [i for text in given or ("",) for i in stop_token_ids(llm, tokenizer, text)]
        long_texts = tuple(text for text in given if len(tokenize(tokenizer, text)) > 1)
        return cls(given, long_texts, tuple(dict.fromkeys(ids)))

    def by_row(
        self, tokenizer: PreTrainedTokenizerBase, guard: RunawayGuard | None = None
    ) -> RowRules:
        """As the loop wants them."""
        return RowRules(tokenizer, frozenset(self.token_ids), self.long_texts, guard)
