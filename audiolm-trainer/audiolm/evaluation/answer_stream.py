"""New tokens one after the other, as they are decoded: the one place that knows how to get them.

In: one row for the LLM (`splice.LlmInputs`). Out: an iterator of token ids, and texts that grow.
"""

from collections.abc import Generator, Sequence

from transformers import PreTrainedTokenizerBase

from audiolm.config import GenerateConfig
from audiolm.models.decode import clean_texts, stream_ids
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs

INCOMPLETE_CHARACTER = "\ufffd"  # what the bytes of half a character decode to


def can_stream(generate_cfg: GenerateConfig) -> bool:
    """Beams change their mind about what they wrote, so only one beam can be shown as it goes."""
    return generate_cfg.num_beams == 1


def stream_new_ids(
    model: SALMONN,
    inputs: LlmInputs,
    generate_cfg: GenerateConfig,
    prefixes: PrefixCache | None = None,
) -> Generator[list[int], None, None]:
    """Ids of one row as they are decoded; with beams, all of them at the end.

    Nothing is decoded before it is asked for; closing the iterator ends the work. `prefixes` are of
    earlier questions to the same weights.
    """
    end_text = model.text_options.end_text
    yield from stream_ids(
        model.llm, model.llama_tokenizer, inputs, generate_cfg, end_text, prefixes=prefixes
    )


def show_so_far(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    end_texts: Sequence[str],
    *,
    is_last: bool,
) -> str:
    """The text of the first ids of an answer, without what may yet turn out to be something else.

    Before the last token, half a character and the beginning of an end symbol are held back.
    """
    (text,) = clean_texts(tokenizer, [ids], *end_texts)
    if is_last:
        return text
    text = text.rstrip(INCOMPLETE_CHARACTER)
    for end_text in filter(None, end_texts):
        for length in range(len(end_text) - 1, 0, -1):
            if text.endswith(end_text[:length]):
                text = text[:-length]
                break
    return text.rstrip()
