"""How long a model takes to answer, and how much memory it needs.

In: a loaded model, one clip in memory, a prompt. Out: times of repeated answers and bytes. Every
answer goes the whole way, on the model's own functions:

    log_mel   waveforms -> spectrogram, on the device
    encode    filterbank, Whisper, BEATs, Q-Former, projector -> audio embeddings
    prompt    tokens and audio -> rows of embeddings
    prefill   the LLM reads the rows -> first token id
    decode    the N - 1 further ids, one step each, on the prefill's cache

    TTFT = log_mel + encode + prompt + prefill     TPOT = (total - TTFT) / (N - 1)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audiolm.audio.features import LogMel
from audiolm.errors import UserError
from audiolm.evaluation.forced_decoding import ForcedDecoder
from audiolm.evaluation.memory import (
    MemoryUse,
    PeakMeter,
    measure_cache,
    measure_weights,
    measure_weights_by_type,
)
from audiolm.evaluation.timing import Answer, IterationKind, PhaseClock, repeat_answers
from audiolm.models.device import choose_device, move_to
from audiolm.models.llm import stop_token_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import splice

TIMED_DEVICES = ("cpu", "cuda")
FIRST_TOKEN_PHASE = "prefill"
LAST_TOKEN_PHASE = "decode"


@dataclass(frozen=True)
class Repetition:
    """How often to answer, and how much.

    Raises:
        UserError: a count that is too small.
    """

    num_it: int = 100
    num_warmup: int = 10
    num_new_tokens: int = 64
    batch_size: int = 1

    def __post_init__(self) -> None:
        checks = (
            ("num_it", self.num_it, 1, ""),
            ("num_warmup", self.num_warmup, 0, ""),
            ("new_tokens", self.num_new_tokens, 2, ": TPOT is the time between two tokens"),
            ("batch_size", self.batch_size, 1, ""),
        )
        for name, value, minimum, reason in checks:
            if value < minimum:
                raise UserError(f"--{name} {value}: give {minimum} or more{reason}")


@dataclass(frozen=True)
class Outcome:
    """What one answer produced, apart from its times.

    `new_ids` (B, N) on the CPU; position counts are per row, without padding.
    """

    new_ids: torch.Tensor
    num_audio_tokens: int
    num_prompt_positions: int
    num_cache_positions: int
    cache_bytes: int


@dataclass(frozen=True)
class Efficiency:
    """Every answer in order (cold, warm-up, measured), the last one's outcome, and the bytes."""

    iterations: list[tuple[IterationKind, Answer]]
    outcome: Outcome
    weights_bytes: dict[str, int]
    weights_bytes_by_type: dict[str, int]
    memory: MemoryUse


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
    ) -> None:
        self.model = model
        self.log_mel = log_mel
        self.waveforms = [waveform] * batch_size
        self.prompts = [prompt] * batch_size
        self.device = next(model.parameters()).device
        end_text = end_text or model.text_options.end_text
        stop_ids = stop_token_ids(model.llm, model.llama_tokenizer, end_text)
        self.decoder = ForcedDecoder(model.llm, stop_ids, num_new_tokens)
        self.outcome: Outcome | None = None

    @torch.no_grad()
    def answer(self) -> Answer:
        """Answer once, timed; what came out is then in `outcome`."""
        model = self.model
        self.outcome = None
        clock = PhaseClock(self.device)
        samples = self._prepare_samples()
        clock.end_phase("log_mel")
        audio_embeds, audio_mask = model.encode_speech(
            samples["spectrogram"], samples["raw_wav"], samples["padding_mask"]
        )
        clock.end_phase("encode")
        inputs = splice(
            audio_embeds,
            audio_mask,
            self.prompts,
            None,
            model.llama_tokenizer,
            model.llm.get_input_embeddings(),
            padding_side="left",
        )
        clock.end_phase("prompt")
        state = self.decoder.prefill(inputs)
        clock.end_phase(FIRST_TOKEN_PHASE)
        new_ids = self.decoder.decode(state)
        clock.end_phase(LAST_TOKEN_PHASE)

        num_prompt_positions = int(inputs.attention_mask[0].sum())
        self.outcome = Outcome(
            new_ids=new_ids.cpu(),
            num_audio_tokens=int(audio_mask[0].sum()),
            num_prompt_positions=num_prompt_positions,
            num_cache_positions=num_prompt_positions + new_ids.shape[1] - 1,
            cache_bytes=measure_cache(state.cache),
        )
        return Answer(
            phase_seconds=clock.phase_seconds,
            ttft_seconds=clock.seconds_until(FIRST_TOKEN_PHASE),
            total_seconds=clock.seconds_until(LAST_TOKEN_PHASE),
            num_new_tokens=new_ids.shape[1],
        )

    def _prepare_samples(self) -> dict[str, Any]:
        """Waveforms -> `spectrogram` (B, M, 3000), `raw_wav` (B, T), `padding_mask` (B, T)."""
        raw_wav = torch.from_numpy(np.stack(self.waveforms))
        samples = {
            "spectrogram": torch.stack([self.log_mel(waveform) for waveform in self.waveforms]),
            "raw_wav": raw_wav,
            "padding_mask": torch.zeros(raw_wav.shape, dtype=torch.bool),
        }
        return move_to(samples, self.device)


def measure_efficiency(
    workload: Workload,
    repetition: Repetition,
    progress: Callable[[Sequence[IterationKind]], Iterable[IterationKind]] = iter,
) -> Efficiency:
    """Answer again and again; the memory peak is that of all answers, without the loading.

    `progress` may wrap the iterations in a bar.
    """
    meter = PeakMeter(workload.device)
    iterations = repeat_answers(workload.answer, repetition.num_warmup, repetition.num_it, progress)
    memory = meter.read()
    assert workload.outcome is not None
    return Efficiency(
        iterations=iterations,
        outcome=workload.outcome,
        weights_bytes=measure_weights(workload.model),
        weights_bytes_by_type=measure_weights_by_type(workload.model),
        memory=memory,
    )


def choose_timed_device(name: str) -> torch.device:
    """`choose_device`, restricted to devices whose work can be waited for.

    Raises:
        UserError: an unknown or absent device, or one that is neither CPU nor CUDA GPU.
    """
    device = choose_device(name)
    if device.type not in TIMED_DEVICES:
        raise UserError(f"run.device: {name}: only cpu and cuda can be timed")
    return device
