"""One question about one clip, answered the whole way on the model's own functions.

In: a loaded model, a clip, a prompt. Out: an answer of a fixed number of tokens, while an observer
(a clock, a memory meter, a counter of operations) is told where each phase ends:

    load         audio file -> waveform in memory
    log_mel      waveform -> log-mel spectrogram, on the device
    whisper      spectrogram -> frames
    fbank        waveform -> Kaldi filterbank
    beats        filterbank -> patches
    qformer      LayerNorms, windows, Q-Former, projector -> audio tokens
    prompt       tokens of the text and audio tokens -> rows of embeddings
    prefill      the LLM reads the rows -> logits of the last position
    first_token  logits -> first token id, in the program's hands
    decode       the N - 1 further ids, one step each, on the prefill's cache
    detokenise   ids -> texts

    TTFT = log_mel + ... + first_token      TPOT = decode / (N - 1)

A phase that the model does not have (fbank and beats without BEATs) is missing. The encoders' ends
are told by hooks on their modules, so that the encoding itself is the model's.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from audiolm.audio.features import LogMel
from audiolm.evaluation.forced_decoding import ForcedDecoder
from audiolm.evaluation.memory import measure_cache
from audiolm.evaluation.timing import Answer, PhaseClock
from audiolm.models.decode import clean_texts
from audiolm.models.device import move_to
from audiolm.models.llm import stop_token_ids
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import splice

PHASES = (
    "load", "log_mel", "whisper", "fbank", "beats", "qformer", "prompt", "prefill", "first_token",
    "decode", "detokenise",
)  # fmt: skip
ENCODER_PHASES = ("whisper", "fbank", "beats", "qformer")


class Observer(Protocol):
    """Is told where phases end."""

    def end_phase(self, name: str) -> None:
        """The phase that began with the last call is over."""

    def end_token(self) -> None:
        """A further token is there."""


@dataclass(frozen=True)
class Outcome:
    """What one answer produced, apart from its times.

    `new_ids` (B, N) on the CPU; position counts are per row, without padding.
    """

    new_ids: torch.Tensor
    texts: list[str]
    num_audio_tokens: int
    num_prompt_positions: int
    num_cache_positions: int
    cache_bytes: int


class Workload:
    """The same question about the same clip, answered again and again.

    Args:
        model: in eval mode.
        log_mel: of the model's Whisper.
        waveform: (T,) float32 at 16 kHz.
        prompt: templated, holds `<SpeechHere>` once.
        num_new_tokens: N, written whatever the model would rather do.
        batch_size: B copies of clip and prompt are answered together.
        end_text: end symbol; empty: the model's own.
        keeps_prefix: what comes before the audio is read by the first answer alone, as where
            people ask and in evaluation (`generate.prefix_cache`).
        is_compiled: `generate.torch_compile`.
        read: reads the waveform from its file; None: `waveform` is taken and nothing is loaded.
    """

    def __init__(
        self,
        model: SALMONN,
        log_mel: LogMel,
        waveform: np.ndarray,
        prompt: str,
        *,
        num_new_tokens: int,
        batch_size: int = 1,
        end_text: str = "",
        keeps_prefix: bool = False,
        is_compiled: bool = False,
        read: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.model = model
        self.log_mel = log_mel
        self.waveforms = [waveform] * batch_size
        self.prompts = [prompt] * batch_size
        self.device = next(model.parameters()).device
        self.end_text = end_text or model.text_options.end_text
        stop_ids = stop_token_ids(model.llm, model.llama_tokenizer, self.end_text)
        prefixes = PrefixCache() if keeps_prefix else None
        self.decoder = ForcedDecoder(
            model.llm, stop_ids, num_new_tokens, prefixes, is_compiled=is_compiled
        )
        self.outcome: Outcome | None = None
        self._read = read

    def answer(self) -> Answer:
        """Answer once, timed; what came out is then in `outcome`."""
        clock = PhaseClock(self.device)
        self.observe(clock)
        clock.stop()
        assert self.outcome is not None
        seconds = clock.phase_seconds
        loading = seconds.get("load", 0.0)
        return Answer(
            phase_seconds=seconds,
            ttft_seconds=clock.seconds_until("first_token") - loading,
            total_seconds=clock.seconds_until("decode") - loading,
            num_new_tokens=self.outcome.new_ids.shape[1],
            wall_seconds=clock.wall_seconds,
            token_seconds=clock.token_seconds,
        )

    @torch.no_grad()
    def observe(self, observer: Observer) -> None:
        """Answer once; `observer` is told of the end of each phase. The result is in `outcome`."""
        self.outcome = None
        if self._read is not None:
            waveforms = [self._read() for _ in self.waveforms]
            observer.end_phase("load")
        else:
            waveforms = self.waveforms
        samples = self._prepare_samples(waveforms)
        observer.end_phase("log_mel")
        inputs, num_audio_tokens = self._encode(samples, observer)
        observer.end_phase("prompt")
        state = self.decoder.prefill(inputs, lambda: observer.end_phase("prefill"))
        state.ids.cpu()  # waits until the id is known
        observer.end_phase("first_token")
        new_ids = self.decoder.decode(state, observer.end_token).cpu()
        observer.end_phase("decode")
        texts = clean_texts(self.model.llama_tokenizer, new_ids.tolist(), self.end_text)
        observer.end_phase("detokenise")
        num_prompt_positions = int(inputs.attention_mask[0].sum())
        self.outcome = Outcome(
            new_ids=new_ids,
            texts=texts,
            num_audio_tokens=num_audio_tokens,
            num_prompt_positions=num_prompt_positions,
            num_cache_positions=num_prompt_positions + new_ids.shape[1] - 1,
            cache_bytes=measure_cache(state.cache),
        )

    def _encode(self, samples: dict[str, Any], observer: Observer) -> tuple[Any, int]:
        """Waveforms and spectrograms -> the LLM's rows, and the audio tokens in the first."""
        model = self.model
        with mark_encoders(model, observer.end_phase):
            audio_embeds, audio_mask = model.encode_speech(
                samples["spectrogram"], samples["raw_wav"], samples["padding_mask"]
            )
        observer.end_phase("qformer")
        inputs = splice(
            audio_embeds,
            audio_mask,
            self.prompts,
            None,
            model.llama_tokenizer,
            model.llm.get_input_embeddings(),
            padding_side="left",
        )
        return inputs, audio_embeds.shape[1]

    def _prepare_samples(self, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """Waveforms -> `spectrogram` (B, M, 3000), `raw_wav` (B, T), `padding_mask` (B, T)."""
        raw_wav = torch.from_numpy(np.stack(waveforms))
        samples = {
            "spectrogram": torch.stack([self.log_mel(waveform) for waveform in waveforms]),
            "raw_wav": raw_wav,
            "padding_mask": torch.zeros(raw_wav.shape, dtype=torch.bool),
        }
        return move_to(samples, self.device)


@contextlib.contextmanager
def mark_encoders(model: SALMONN, end_phase: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, `end_phase` is told where Whisper, the filterbank and BEATs end."""
    handles = []
    if model.speech_encoder is not None:
        last = model.speech_encoder.layer_norm  # trimmed input goes past the encoder's `forward`
        handles.append(last.register_forward_hook(lambda *_: end_phase("whisper")))
    if model.beats is not None:
        beats = model.beats
        handles.append(beats.register_forward_pre_hook(lambda *_: end_phase("fbank")))
        handles.append(beats.register_forward_hook(lambda *_: end_phase("beats")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
