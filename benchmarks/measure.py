"""One measurement in this process: a task, a way of doing it, and samples by name.

In: the stack and clips that `midsize.py` wrote. Out: way -> name -> values, of times in seconds and
memory in MB (10^6 bytes). Imports are part of what is measured, so each function has its own. The
first call of each kind warms up and does not count.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stack import (
    BATCH_SIZE,
    FILE_RATES_HZ,
    PROMPT,
    Setup,
    StoredClips,
    build_dataset,
    build_model,
)

Samples = dict[str, list[float]]

NUM_NEW_TOKENS = 32
FILES_PER_REPEAT = 10
BYTES_PER_MB = 1e6


def measure(task: str, way: str, setup: Setup) -> dict[str, Samples]:
    """Do a task of `WAYS` in one of its ways, again and again."""
    if task == "files":
        return measure_files(setup)
    tasks: dict[str, Callable[[str, Setup], Samples]] = {
        "construct": measure_construction,
        "train": measure_training,
        "infer": measure_inference,
    }
    return {way: tasks[task](way, setup)}


def measure_construction(way: str, setup: Setup) -> Samples:
    """Build the model once, from files in the page cache, with its modules imported."""
    started = time.perf_counter()
    if way == "plain":
        import plain  # noqa: F401
    else:
        import peft  # noqa: F401  # with bitsandbytes; `build` imports it once it is needed

        import audiolm.models.build  # noqa: F401
    import_seconds = time.perf_counter() - started
    before_mb = read_memory_mb("VmRSS")

    started = time.perf_counter()
    model = build_model(way, setup)
    seconds = time.perf_counter() - started
    values = {
        "seconds": seconds,
        "over_imports_mb": read_memory_mb("VmRSS") - before_mb,
        "peak_over_imports_mb": read_memory_mb("VmHWM") - before_mb,
        "import_seconds": import_seconds,
        "imports_mb": before_mb,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    return {name: [value] for name, value in values.items()}


def measure_training(way: str, setup: Setup) -> Samples:
    """Optimiser steps on one batch: forward, backward, AdamW."""
    import torch

    from audiolm.config import OptimsConfig
    from audiolm.data.batches import collate
    from audiolm.evaluation.timing import PhaseClock
    from audiolm.training.optimiser import build_optimiser

    model = build_model(way, setup)
    dataset = build_dataset(setup, FILE_RATES_HZ[0])
    if way.endswith("_cached"):
        dataset.features = StoredClips(setup, way)
    batch = collate([dataset[index] for index in range(BATCH_SIZE)])
    prompts = [PROMPT] * BATCH_SIZE
    optimiser = build_optimiser(model, OptimsConfig())
    model.train()
    torch.manual_seed(0)
    samples: Samples = defaultdict(list)
    for step in range(1 + setup.repeats):
        clock = PhaseClock(torch.device("cpu"))
        loss = model(batch, verbose=True, prompts=prompts)["loss"]
        clock.end_phase("forward")
        loss.backward()
        clock.end_phase("backward")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        clock.end_phase("optimiser")
        if step:
            add_sample(samples, {"step_seconds": clock.seconds_until("optimiser")})
            add_sample(samples, {f"{k}_seconds": v for k, v in clock.phase_seconds.items()})
    return {**samples, "peak_mb": [read_memory_mb("VmHWM")]}


def measure_inference(way: str, setup: Setup) -> Samples:
    """Answers of `NUM_NEW_TOKENS` to one clip, and the encoders alone; ours also merged."""
    import torch
    from transformers import WhisperFeatureExtractor

    from audiolm.audio.features import LogMel
    from audiolm.evaluation.machine_limits import measure_matmul_flops_per_second
    from audiolm.evaluation.workload import ENCODER_PHASES, Workload

    model = build_model(way, setup)
    item = build_dataset(setup, FILE_RATES_HZ[0])[0]
    waveform = item["raw_wav"].numpy()
    whisper_path = setup.stack_dir / "whisper"
    workload = None
    if way == "plain":
        from plain import time_plain_answer

        extractor = WhisperFeatureExtractor.from_pretrained(whisper_path)

        def answer() -> Mapping[str, float]:
            return time_plain_answer(model, extractor, waveform, PROMPT, NUM_NEW_TOKENS)
    else:
        log_mel = LogMel.from_pretrained(whisper_path)
        workload = Workload(model, log_mel, waveform, PROMPT, num_new_tokens=NUM_NEW_TOKENS)
        answer_once = workload.answer

        def answer() -> Mapping[str, float]:
            seconds = answer_once().as_seconds()
            encode = sum(seconds.get(f"{phase}_seconds", 0.0) for phase in ENCODER_PHASES)
            return {**seconds, "encode_seconds": encode}

    samples = repeat(answer, setup.repeats)
    samples["peak_mb"] = [read_memory_mb("VmHWM")]
    rates: list[float] = []

    def time_encoders_beside_limit() -> dict[str, float]:
        rates.append(measure_matmul_flops_per_second(torch.device("cpu")))
        return time_encoders(model, item)

    samples |= repeat(time_encoders_beside_limit, setup.repeats)
    if workload is not None:
        samples["matmul_gflop_per_second"] = [find_upper_quartile(rates) / 1e9]
        assert workload.outcome is not None
        samples["num_prompt_positions"] = [workload.outcome.num_prompt_positions]
        samples |= measure_merged(workload, samples, setup.repeats)
    return samples


def measure_merged(unmerged: Any, before: Samples, num_repeats: int) -> Samples:
    """The same with the adapter merged: our loop, the compiled one and `generate` in turn, as
    shares of the limits. Whisper's time and the rate beside it are those in `before`."""
    import torch

    from audiolm.evaluation.machine_limits import measure_bandwidth_bytes_per_second
    from audiolm.evaluation.roofline import MachineLimits, compute_roofline, count_operations
    from audiolm.evaluation.workload import Workload
    from audiolm.models.adapter import merge_adapter

    model, num_positions = unmerged.model, unmerged.outcome.num_prompt_positions
    model.llama_model = merge_adapter(model.llama_model)
    workload, compiled = (
        Workload(
            model, unmerged.log_mel, unmerged.waveforms[0], PROMPT,
            num_new_tokens=NUM_NEW_TOKENS, is_compiled=is_compiled,
        )
        for is_compiled in (False, True)
    )  # fmt: skip
    bandwidths: list[float] = []

    def answer_each_way() -> dict[str, float]:
        bandwidths.append(measure_bandwidth_bytes_per_second(torch.device("cpu")))
        seconds, compiled_seconds = (one.answer().as_seconds() for one in (workload, compiled))
        return {
            "tpot_merged_seconds": seconds["tpot_seconds"],
            "ttft_merged_seconds": seconds["ttft_seconds"],
            "decode_merged_seconds": seconds["decode_seconds"],
            "tpot_compiled_seconds": compiled_seconds["tpot_seconds"],
            "decode_compiled_seconds": compiled_seconds["decode_seconds"],
            "tpot_generate_merged_seconds": time_generate(model, num_positions),
        }

    samples = repeat(answer_each_way, num_repeats)
    (rate,) = before["matmul_gflop_per_second"]
    limits = MachineLimits(find_upper_quartile(bandwidths), 1e9 * rate, "float32")
    whisper = statistics.median(before["whisper_seconds"])
    decode = statistics.median(samples.pop("decode_merged_seconds"))
    decode_compiled = statistics.median(samples.pop("decode_compiled_seconds"))
    operations = count_operations(workload)
    rows = compute_roofline(operations, {"whisper": whisper, "decode": decode}, limits)
    samples |= {f"{row.phase}_limit_share": [row.share] for row in rows}
    (share,) = samples["decode_limit_share"]
    samples["decode_compiled_limit_share"] = [share * decode / decode_compiled]
    samples["bandwidth_gb_per_second"] = [limits.bandwidth_bytes_per_second / 1e9]
    return samples


def find_upper_quartile(values: Iterable[float]) -> float:
    """The value that a quarter of them exceeds: the limit that medians are a share of, where it is
    taken anew before each call, since a shared host's speed moves by a third within minutes."""
    return statistics.quantiles(values, n=4, method="inclusive")[-1]


def time_generate(model: Any, num_positions: int) -> float:
    """Seconds per token of transformers' own `generate` on the same LLM, after the first."""
    import torch
    from plain import TokenTimes

    llm = model.llama_model
    width = llm.get_input_embeddings().embedding_dim
    embeds = torch.zeros(1, num_positions, width)  # a token's time does not depend on what it is
    tokens = TokenTimes()
    llm.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=NUM_NEW_TOKENS,
        min_new_tokens=NUM_NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        streamer=tokens,
    )
    return (tokens.times[-1] - tokens.times[-NUM_NEW_TOKENS]) / (NUM_NEW_TOKENS - 1)


def time_encoders(model: Any, item: Mapping[str, Any]) -> dict[str, float]:
    """Whisper, and BEATs with its filterbank, on one clip as the model's mode has them read it."""
    import torch

    from audiolm.audio.features import kaldi_fbank
    from audiolm.models.audio_tokens import plan_frames
    from audiolm.models.whisper import encode_padded, encode_trimmed

    spectrogram, raw_wav = item["spectrogram"][None], item["raw_wav"][None]
    options = getattr(model, "audio_options", None)  # the plain model has none
    with torch.no_grad():
        started = time.perf_counter()
        if options is not None and options.is_trimmed:
            num_samples = torch.tensor([raw_wav.shape[1]])
            max_frames = model.speech_encoder.config.max_source_positions
            num_frames = plan_frames(num_samples, max_frames, options).num_encoded
            encode_trimmed(model.speech_encoder, spectrogram, num_frames)
        else:
            encode_padded(model.speech_encoder, spectrogram)
        middle = time.perf_counter()
        model.beats(*kaldi_fbank(raw_wav))
        ended = time.perf_counter()
    return {"whisper_seconds": middle - started, "beats_seconds": ended - middle}


def measure_files(setup: Setup) -> dict[str, Samples]:
    """A file to waveform and log-mel: ours and plain in turn."""
    from plain import load_plain_features
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(setup.stack_dir / "whisper")
    samples: dict[str, Samples] = {"ours": {}, "plain": {}}
    for rate_hz in FILE_RATES_HZ:
        dataset = build_dataset(setup, rate_hz)
        path = setup.work / setup.clip_name(0, rate_hz)
        ours, plain = [], []
        for _ in range(1 + FILES_PER_REPEAT * setup.repeats):
            started = time.perf_counter()
            dataset[0]
            middle = time.perf_counter()
            load_plain_features(path, extractor)
            ended = time.perf_counter()
            ours.append(middle - started)
            plain.append(ended - middle)
        name = f"file_{rate_hz}_hz_seconds"
        samples["ours"][name], samples["plain"][name] = ours[1:], plain[1:]
    return samples


def repeat(call: Callable[[], Mapping[str, float]], num_repeats: int) -> Samples:
    """Call once to warm up, then `num_repeats` times; values by name."""
    call()
    samples: Samples = defaultdict(list)
    for _ in range(num_repeats):
        add_sample(samples, call())
    return dict(samples)


def add_sample(samples: Samples, values: Mapping[str, float]) -> None:
    """Append one value to each name's list."""
    for name, value in values.items():
        samples[name].append(value)


def read_memory_mb(field: str) -> float:
    """`VmRSS` (resident now) or `VmHWM` (at most) of this process, by Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024 / BYTES_PER_MB
