"""New tokens one after the other, as they are decoded: the one place that knows how to get them.

In: one row for the LLM (`splice.LlmInputs`). Out: an iterator of token ids, and texts that grow.
"""

import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from audiolm.config import GenerateConfig
from audiolm.models.decode import clean_texts, generate_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs

INCOMPLETE_CHARACTER = "\ufffd"  # what the bytes of half a character decode to


class _Abandoned(Exception):
    """Raised inside `generate` when nobody wants the rest."""


class _QueueStreamer(BaseStreamer):
    """Hands ids over from the thread that decodes; transformers calls `put` and `end`.

    The thread waits until the next ids are wanted, so that nothing is decoded for nobody.
    """

    def __init__(self) -> None:
        self.ids: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()  # None: no more
        self.wanted = threading.Semaphore(0)
        self.is_abandoned = threading.Event()

    def put(self, value: torch.Tensor) -> None:
        """(1,) new ids; the first call brings the prompt's, and embeddings have none."""
        if value.numel():
            self.ids.put(value.flatten().tolist())
            self.wanted.acquire()
        if self.is_abandoned.is_set():
            raise _Abandoned

    def end(self) -> None:
        """Nothing: the thread tells by itself that it is done, also when it failed."""


def can_stream(generate_cfg: GenerateConfig) -> bool:
    """Beams change their mind about what they wrote, so only one beam can be shown as it goes."""
    return generate_cfg.num_beams == 1


def stream_new_ids(
    model: SALMONN, inputs: LlmInputs, generate_cfg: GenerateConfig
) -> Generator[list[int], None, None]:
    """Ids of one row as they are decoded; with beams, all of them at the end.

    Closing the iterator stops the decoding before its next token.
    """
    arguments = (
        model.llm,
        model.llama_tokenizer,
        inputs,
        generate_cfg,
        model.text_options.end_text,
    )
    if not can_stream(generate_cfg):
        yield generate_ids(*arguments)[0].tolist()
        return
    streamer = _QueueStreamer()
    with ThreadPoolExecutor(1) as pool:
        decoding = pool.submit(generate_ids, *arguments, streamer=streamer)
        decoding.add_done_callback(lambda _: streamer.ids.put(None))
        try:
            while (ids := streamer.ids.get()) is not None:
                yield ids
                streamer.wanted.release()
            decoding.result()  # raises what went wrong there
        finally:
            streamer.is_abandoned.set()
            streamer.wanted.release()


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
