"""The competition organiser's way of timing, for numbers that compare with published ones.

In: a loaded model and a clip of noise. Out: one `CompatSample` per answer. It is kept as it was,
with what is wrong with it, and says little about how long an answer takes:

- the log-mel is computed before the timer starts, BEATs' filterbank while it runs;
- the timers do not wait for a GPU, only the whole call does;
- TPOT is one decode step alone; of a 4-bit model that step sees no cache at all;
- the memory peak is never reset, so that it holds the loading of the model;
- means only, of 10 s of noise.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from audiolm.evaluation.efficiency import Question
from audiolm.evaluation.memory import read_process_bytes
from audiolm.evaluation.timing import read_clock
from audiolm.models.splice import splice

COMPAT_SECONDS = 10.0
LABEL = "organiser's protocol (--compat)"


@dataclass(frozen=True)
class CompatSample:
    """One call: its times, and the highest memory use since the program began (None: unknown)."""

    inference_seconds: float
    ttft_seconds: float
    tpot_seconds: float
    memory_bytes: int | None


@torch.no_grad()
def measure_compat(
    question: Question,
    waveform: Any,
    num_it: int,
    num_warmup: int,
    progress: Callable[[], None] = lambda: None,
) -> list[CompatSample]:
    """`num_warmup` calls that do not count, then `num_it` that do; all on the same noise."""
    model = question.model
    device = next(model.parameters()).device
    is_packed = any("4bit" in type(module).__name__ for module in model.llm.modules())
    raw_wav = torch.from_numpy(waveform)[None].to(device)
    samples = []
    for _ in range(num_warmup + num_it):
        spectrogram = question.log_mel(waveform)[None].to(device)
        read_clock(device)
        started = time.perf_counter()
        audio_embeds, audio_mask = model.encode_speech(spectrogram, raw_wav)
        inputs = splice(
            audio_embeds,
            audio_mask,
            [question.prompt],
            None,
            model.llama_tokenizer,
            model.llm.get_input_embeddings(),
            padding_side="left",
        )
        output = model.llm(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            use_cache=True,
        )
        next_id = output.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        cache = None if is_packed else output.past_key_values
        model.llm(input_ids=next_id, past_key_values=cache, use_cache=True)
        second = time.perf_counter()
        ended = read_clock(device)
        memory = _read_peak(device)
        samples.append(CompatSample(ended - started, first - started, second - first, memory))
        progress()
    return samples[num_warmup:]


def describe_compat(samples: Sequence[CompatSample]) -> dict[str, Any]:
    """Means, and every sample."""
    peaks = [sample.memory_bytes for sample in samples if sample.memory_bytes is not None]
    return {
        "protocol": LABEL,
        "mean_inference_seconds": statistics.fmean(s.inference_seconds for s in samples),
        "mean_ttft_seconds": statistics.fmean(s.ttft_seconds for s in samples),
        "mean_tpot_seconds": statistics.fmean(s.tpot_seconds for s in samples),
        "mean_memory_bytes": statistics.fmean(peaks) if peaks else None,
        "samples": [vars(sample) for sample in samples],
    }


def format_compat(found: dict[str, Any], is_gpu: bool) -> str:
    """Lines for the screen, under a heading that says what they are."""
    memory = found["mean_memory_bytes"]
    amount = "not measured" if memory is None else f"{memory / 2**30:.3f} GiB"
    what = "GPU, allocated" if is_gpu else "process, libraries included"
    return "\n".join(
        [
            f"{LABEL}: 10 s of noise, batch 1, means of {len(found['samples'])} calls",
            "not comparable with the default report: the log-mel is not timed, TPOT is one step,",
            "and the memory peak holds the loading",
            f"  memory ({what}): {amount}",
            f"  inference time: {found['mean_inference_seconds']:.4f} s",
            f"  TTFT: {found['mean_ttft_seconds']:.4f} s",
            f"  TPOT: {found['mean_tpot_seconds']:.4f} s",
            f"  latency (TTFT + TPOT): "
            f"{found['mean_ttft_seconds'] + found['mean_tpot_seconds']:.4f} s",
        ]
    )


def _read_peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return read_process_bytes("VmHWM")
