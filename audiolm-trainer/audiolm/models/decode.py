"""From spliced rows to answers: by the loop of `greedy.py`, or with beams by transformers.

Letters: B clips, S prompt positions, A answer tokens of the longest answer, H LLM width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

from audiolm.config import GenerateConfig
from audiolm.models.greedy import TokenLoop, build_processors
from audiolm.models.llm import CausalStep
from audiolm.models.log_probability import measure_log_probabilities
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.sampling import choose_samplers
from audiolm.models.splice import LlmInputs
from audiolm.models.stopping import EndRules, RunawayGuard, find_loop
from audiolm.models.transformers_decoding import generate_by_transformers


@dataclass(frozen=True)
class Answer:
    """One decoded answer.

    Attributes:
        text: special tokens and outer space removed, cut at the end symbol; of a loop, the first
            round alone.
        raw_text: every new token, special ones, loops and the end token included.
        num_tokens: new tokens before the end token.
        stop_reason: `end_token`, `end_text` (an end symbol of several tokens), `max_new_tokens`,
            or the guard's `runaway` and `looping`.
        log_probability: of the tokens of `raw_text` under the LLM, natural logarithm, whatever the
            decoding.
    """

    text: str
    raw_text: str
    num_tokens: int
    stop_reason: str
    log_probability: float


def read_generate_config(section: Any) -> GenerateConfig:
    """The `generate` section (dataclass, OmegaConf node, dict or None) as a dataclass."""
    if isinstance(section, GenerateConfig):
        return section
    if OmegaConf.is_config(section):
        section = OmegaConf.to_container(section, resolve=True)
    if is_dataclass(section) and not isinstance(section, type):
        section = asdict(section)
    assert section is None or isinstance(section, Mapping)
    from audiolm.config_file import build_config

    return build_config({"generate": dict(section or {})}, source="generate").generate


def generate_ids(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
    *,
    guard: RunawayGuard | None = None,
    seeds: Sequence[int] | None = None,
    prefixes: PrefixCache | None = None,
) -> torch.Tensor:
    """New token ids (B, at most max_new_tokens), stopped row by row and padded at the end.

    `min_length` and `max_new_tokens` count new tokens only. A row ends at any end token of the LLM
    or tokenizer, at `generate.end_sym`, at `end_text` and, with a `guard`, where that says.

    Args:
        seeds: of sampling, one per row; None draws them from torch's generator. With beams, torch's
            generator does the sampling, for all rows together.
        prefixes: of earlier calls with the same weights; None computes all anew.
    """
    options = read_generate_config(generate_cfg)
    rules = EndRules.build(llm, tokenizer, options.end_sym, end_text)
    if options.num_beams == 1 and CausalStep.fits(llm):
        loop = _build_loop(llm, inputs, options, rules, seeds)
        pad_id = rules.token_ids[0] if rules.token_ids else int(tokenizer.pad_token_id or 0)  # type: ignore[arg-type]
        state = loop.prefill(inputs, prefixes=prefixes)
        return loop.write_until(state, rules.by_row(tokenizer, guard), pad_id)
    return generate_by_transformers(llm, tokenizer, inputs, options, rules, guard, seeds)


def stream_ids(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
    *,
    guard: RunawayGuard | None = None,
    seeds: Sequence[int] | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[list[int]]:
    """The ids of `generate_ids` for one row, each as soon as it is there; beams' at the end.

    Closing the iterator stops the decoding.
    """
    options = read_generate_config(generate_cfg)
    rules = EndRules.build(llm, tokenizer, options.end_sym, end_text)
    if options.num_beams > 1 or not CausalStep.fits(llm):
        ids = generate_by_transformers(llm, tokenizer, inputs, options, rules, guard, seeds)
        yield ids[0].tolist()
        return
    loop = _build_loop(llm, inputs, options, rules, seeds)
    yield from loop.stream(inputs, rules.by_row(tokenizer, guard), prefixes)


def _build_loop(
    llm: Any,
    inputs: LlmInputs,
    options: GenerateConfig,
    rules: EndRules,
    seeds: Sequence[int] | None,
) -> TokenLoop:
    processors = build_processors(
        inputs.attention_mask.device,
        repetition_penalty=options.repetition_penalty,
        min_new_tokens=min(options.min_length, options.max_new_tokens),
        stop_ids=rules.token_ids,
        samplers=choose_samplers(options, len(inputs.attention_mask), seeds),
    )
    return TokenLoop(llm, options.max_new_tokens, processors, is_compiled=options.torch_compile)


def generate_texts(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
) -> list[str]:
    """Answers as plain text: special tokens removed, cut at the end symbol."""
    options = read_generate_config(generate_cfg)
    ids = generate_ids(llm, tokenizer, inputs, options, end_text)
    return clean_texts(tokenizer, ids.tolist(), options.end_sym, end_text)


@torch.no_grad()
def generate_answers(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    generate_cfg: Any,
    end_text: str,
    *,
    audio_seconds: Sequence[float],
    seeds: Sequence[int],
    prefixes: PrefixCache | None = None,
) -> list[Answer]:
    """Answers with all that is known about them; what evaluation decodes with.

    A row's answer does not depend on the others, nor on how often this was called before.

    Args:
        audio_seconds: of each clip, for the guard (`generate.runaway_guard`).
        seeds: of sampling, one per clip.
        prefixes: see `generate_ids`.
    """
    options = read_generate_config(generate_cfg)
    guard = RunawayGuard.from_seconds(audio_seconds) if options.runaway_guard else None
    if options.do_sample and options.num_beams > 1:  # torch's generator: each row by itself
        rows = [_sample_beams(llm, tokenizer, inputs, row, options, end_text, guard, seed)
                for row, seed in enumerate(seeds)]  # fmt: skip
    else:
        rows = generate_ids(
            llm, tokenizer, inputs, options, end_text, guard=guard, seeds=seeds, prefixes=prefixes
        ).tolist()
    rules = EndRules.build(llm, tokenizer, options.end_sym, end_text)
    endings = [
        _find_ending(tokenizer, row, rules, guard.limits[place] if guard else None)
        for place, row in enumerate(rows)
    ]
    written = [ending.ids + ending.end_ids for ending in endings]
    log_probabilities = measure_log_probabilities(llm, inputs, written)
    kept = [ending.ids[: ending.num_kept] for ending in endings]
    texts = clean_texts(tokenizer, kept, *rules.texts)
    raw_texts = tokenizer.batch_decode(written, clean_up_tokenization_spaces=False)
    return [
        Answer(text, raw_text, len(ending.ids), ending.reason, log_probability)
        for text, raw_text, ending, log_probability in zip(
            texts, raw_texts, endings, log_probabilities, strict=True
        )
    ]


def clean_texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]], *end_texts: str
) -> list[str]:
    """Token ids -> text up to the first end symbol, without special tokens or outer space."""
    texts = tokenizer.batch_decode(
        [list(row) for row in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    for end_text in filter(None, end_texts):
        texts = [text.split(end_text)[0] for text in texts]
    return [text.strip() for text in texts]


def _sample_beams(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    inputs: LlmInputs,
    row: int,
    options: GenerateConfig,
    end_text: str,
    guard: RunawayGuard | None,
    seed: int,
) -> list[int]:
    """Ids of one row, by beams whose sampling follows the row's seed."""
    one = inputs.take_rows(slice(row, row + 1))
    limit = None if guard is None else RunawayGuard(guard.limits[row : row + 1])
    devices = [inputs.inputs_embeds.device] if inputs.inputs_embeds.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return generate_ids(llm, tokenizer, one, options, end_text, guard=limit)[0].tolist()


@dataclass(frozen=True)
class _Ending:
    """A row's answer, the end token it wrote, how much of it to keep, and why it ended."""

    ids: list[int]
    end_ids: list[int]
    num_kept: int
    reason: str


def _find_ending(
    tokenizer: PreTrainedTokenizerBase, row: Sequence[int], rules: EndRules, limit: int | None
) -> _Ending:
    """Why a row ended, and where.

    A row that a rule ended is padded with an end token that it never wrote. So rules are looked at
    first; none goes on beyond the token at which one of them applies.
    """
    place = next((i for i, token in enumerate(row) if token in rules.token_ids), len(row))
    ids = list(row[:place])
    text = tokenizer.decode(ids) if rules.long_texts else ""
    num_in_loop = find_loop(ids) if limit is not None else None
    if any(end_text in text for end_text in rules.long_texts):
        return _Ending(ids, [], place, "end_text")
    if num_in_loop is not None:
        return _Ending(ids, [], num_in_loop, "looping")
    if limit is not None and place >= limit:
        return _Ending(ids, [], place, "runaway")
    end_ids = list(row[place : place + 1])
    return _Ending(ids, end_ids, place, "end_token" if end_ids else "max_new_tokens")
