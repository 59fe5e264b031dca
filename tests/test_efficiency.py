"""The efficiency tool times whole answers on the real cache and counts the right bytes."""

import functools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import evaluate_efficiency_salmonn as script
from audiolm.audio.features import LogMel
from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.evaluation import machine, memory, roofline, timing
from audiolm.evaluation.efficiency import Case, Question
from audiolm.evaluation.efficiency_page import build_page
from audiolm.evaluation.efficiency_report import choose_report_path, save_report
from audiolm.evaluation.efficiency_tables import format_report
from audiolm.evaluation.forced_decoding import ForcedDecoder
from audiolm.evaluation.roofline import MachineLimits, count_operations
from audiolm.evaluation.timing_clip import build_noise_clip, build_synthetic_clip, load_timing_clip
from audiolm.evaluation.workload import PHASES, Workload
from audiolm.models.decode import generate_ids
from audiolm.models.device import inference_dtype
from audiolm.models.lean_step import LeanStep
from audiolm.models.llm import stop_token_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs
from tests.golden import GOLDEN_DIR, Golden

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
CLOCK_SLACK_SECONDS = 1e-9  # sums of differences of float64 clock readings
LIMITS = MachineLimits(1e10, 1e11, "float32")
PROMPT = "USER: <Speech><SpeechHere></Speech> Transcribe the recording.\nASSISTANT:"
CPU = torch.device("cpu")
has_reset = pytest.mark.skipif(
    not os.access(memory.CLEAR_REFS_PATH, os.W_OK), reason="the process peak cannot be reset here"
)


def qformer_options(variant: str) -> list[str]:
    size = Golden(variant, "lora").config.model.qformer
    return [f"model.qformer.{name}={value}" for name, value in vars(size).items()]


def load_log_mel(variant: str = "dev") -> LogMel:
    return LogMel.from_pretrained(GOLDEN_DIR / variant / "components" / "whisper")


@pytest.fixture(autouse=True, scope="module")
def quick_limits() -> Iterator[None]:
    """The machine is not measured anew for each report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "measure_limits", lambda device, dtype: LIMITS)
        yield


def run(out: Path, *words: str, variant: str = "dev", options: tuple[str, ...] = ()) -> Any:
    """Run the script in this process; returns its JSON."""
    arguments = ["--cfg-path", str(GOLDEN_DIR / variant / "config_lora.yaml"), "--out", str(out)]
    arguments += ["--num_it", "3", "--num_warmup", "1", "--new_tokens", "5", "--device", "cpu"]
    arguments += [*words, "--options", *qformer_options(variant), *options]
    assert script.main(arguments) == 0
    return json.loads(out.read_text(encoding="utf-8"))


# --- the whole tool -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("efficiency") / "report.json")


def test_report_holds_settings_samples_and_machine(report: Any) -> None:
    (case,) = report["cases"]
    kinds = [iteration["kind"] for iteration in case["iterations"]]
    num_warmup = case["warmup"]["num"]
    assert kinds == ["cold", *["warmup"] * num_warmup, *["measured"] * 3]
    assert 1 <= num_warmup <= 5
    assert report["settings"]["num_it"] == 3
    assert report["settings"]["prompt"] == PROMPT
    assert case["audio"] == {"source": "synthetic", "seconds": 10.0, "was_cut": False}
    assert case["lengths"]["num_audio_tokens"] == 88
    assert case["lengths"]["num_new_tokens"] == 5
    assert report["machine"]["num_threads"] == torch.get_num_threads()
    assert report["machine"]["packages"]["torch"] == torch.__version__
    assert report["machine"]["device_name"]
    assert report["config"]["model"]["qformer"]["hidden_size"] == 56
    assert "token" not in report["config"]["model"]
    assert report["model_loading_seconds"] > 0
    cold = case["iterations"][0]
    drop = ("kind", "token_seconds")
    assert case["cold"] == {name: value for name, value in cold.items() if name not in drop}


def test_phases_add_up_to_the_wall_time(report: Any) -> None:
    """Within 2 %, by a clock of its own: nothing is forgotten and nothing counted twice.

    In most answers: the machine may put the process aside between the last marks of one.
    """
    (case,) = report["cases"]
    assert case["phases"] == list(PHASES)
    shares = []
    for times in case["iterations"]:
        phases = [times[f"{name}_seconds"] for name in PHASES]
        assert all(seconds > 0 for seconds in phases)
        assert sum(phases) <= times["wall_seconds"]
        shares.append(sum(phases) / times["wall_seconds"])
    assert statistics.median(shares) >= 0.98


def test_ttft_starts_in_memory_and_tpot_is_the_rest_per_token(report: Any) -> None:
    (case,) = report["cases"]
    num_new_tokens = case["lengths"]["num_new_tokens"]
    before = PHASES[PHASES.index("log_mel") : PHASES.index("first_token") + 1]
    for times in case["iterations"]:
        ttft, total = times["ttft_seconds"], times["total_seconds"]
        slack = CLOCK_SLACK_SECONDS
        assert sum(times[f"{n}_seconds"] for n in before) == pytest.approx(ttft, abs=slack)
        assert ttft + times["decode_seconds"] == pytest.approx(total, abs=slack)
        expected = (total - ttft) / (num_new_tokens - 1)
        assert times["tpot_seconds"] == pytest.approx(expected, rel=1e-12)
        gaps = times["token_seconds"]
        assert len(gaps) == num_new_tokens - 1
        assert sum(gaps) <= times["decode_seconds"]


def test_summary_is_that_of_the_measured_samples(report: Any) -> None:
    (case,) = report["cases"]
    measured = [times for times in case["iterations"] if times["kind"] == "measured"]
    for name, summary in case["summary"].items():
        if name == "itl_seconds":
            samples = [gap for times in measured for gap in times["token_seconds"]]
        else:
            samples = [times[name] for times in measured]
        assert summary["min"] == min(samples)
        assert summary["max"] == max(samples)
        assert summary["p50"] == pytest.approx(np.median(samples), rel=1e-12)
        assert summary["mean"] == pytest.approx(np.mean(samples), rel=1e-12)
        assert summary["std"] == pytest.approx(np.std(samples, ddof=1), rel=1e-9)
        assert min(samples) <= summary["mean_low"] <= summary["mean"] <= summary["mean_high"]
    seconds = sum(times["wall_seconds"] for times in measured)
    throughput = case["throughput"]
    assert throughput["clips_per_second"] == pytest.approx(3 / seconds)
    assert throughput["rtfx"] == pytest.approx(30 / seconds)
    assert throughput["new_tokens_per_second"] == pytest.approx(15 / seconds)


def test_memory_by_part_and_phase(report: Any) -> None:
    sizes = report["weights_bytes"]
    (case,) = report["cases"]
    assert list(sizes) == [*memory.PARTS, "total"]
    assert sum(sizes[part] for part in memory.PARTS) == sizes["total"]
    assert all(sizes[part] > 0 for part in memory.PARTS)
    assert sum(report["weights_bytes_by_type"].values()) == sizes["total"]
    # keys and values, 2 layers, 2 heads of width 16, float32
    num_positions = case["lengths"]["num_prompt_positions"] + 5 - 1
    assert case["lengths"]["num_cache_positions"] == num_positions
    assert case["memory"]["kv_cache_bytes"] == num_positions * 2 * 2 * 2 * 16 * 4
    assert case["memory"]["gpu_peak_allocated_bytes"] is None
    assert list(case["memory"]["phases"]) == list(PHASES)


def test_tables_and_page_show_the_numbers(report: Any, tmp_path: Path) -> None:
    table = format_report(report)
    (case,) = report["cases"]
    p50_ms = f"{1000 * case['summary']['tpot_seconds']['p50']:.2f}"
    tpot_line = next(line for line in table.splitlines() if line.startswith("TPOT"))
    assert p50_ms in tpot_line.split()
    assert f"{report['weights_bytes']['total'] / MIB:.1f}" in table
    assert "reads 10.0 GB/s and multiplies 100 GFLOP/s" in table
    assert tpot_line in build_page(report)
    unknown = {**case, "memory": {**case["memory"], "process_peak_bytes": None}}
    assert "not measured" in format_report({**report, "cases": [unknown]})


def test_page_needs_nothing_else_and_its_bars_are_the_phases(report: Any) -> None:
    page = build_page(report)
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)|<link|<script", page)
    bars = re.findall(r'width="([\d.]+)" height="30"', page)
    (case,) = report["cases"]
    medians = [case["summary"][f"{name}_seconds"]["p50"] for name in PHASES]
    expected = [m / sum(medians) for m in medians]
    widths = [float(bar) for bar in bars]
    assert [w / sum(widths) for w in widths] == pytest.approx(expected, abs=1e-3)


def test_without_beats(tmp_path: Path) -> None:
    report = run(tmp_path / "x.json", variant="nobeats")
    assert report["weights_bytes"]["beats"] == 0
    assert report["weights_bytes"]["whisper"] > 0
    (case,) = report["cases"]
    assert case["phases"] == [name for name in PHASES if name not in ("fbank", "beats")]
    assert (tmp_path / "x.html").is_file()


def test_batches_lengths_and_light_mode(tmp_path: Path, report: Any) -> None:
    light = ("model.audio_tokens=length_aware", "model.whisper_input=trimmed")
    words = ("--batch_sizes", "1", "2", "--seconds", "5", "10", "--noise")
    found = run(tmp_path / "x.json", *words, options=light)
    cases = found["cases"]
    shape = [(case["audio"]["seconds"], case["batch_size"]) for case in cases]
    assert shape == [(5, 1), (5, 2), (10, 1), (10, 2)]
    assert {case["audio"]["source"] for case in cases} == {"noise"}
    # 10 s in windows of 17 frames
    assert [case["lengths"]["num_audio_tokens"] for case in cases] == [15, 15, 30, 30]
    plain = report["cases"][0]
    per_row = plain["memory"]["kv_cache_bytes"] / plain["lengths"]["num_cache_positions"]
    expected = 2 * per_row * cases[3]["lengths"]["num_cache_positions"]
    assert cases[3]["memory"]["kv_cache_bytes"] == expected
    assert len(format_report(found).split("TTFT and TPOT are medians")) == 2


def test_case_without_memory_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Workload.observe

    def observe_small(self: Workload, observer: Any) -> None:
        if len(self.waveforms) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")
        observe(self, observer)

    monkeypatch.setattr(Workload, "observe", observe_small)
    report = run(tmp_path / "x.json", "--batch_sizes", "2", "1")
    assert report["cases"][0]["error"] == "out of memory: CUDA out of memory. Tried"
    assert "summary" in report["cases"][1]
    assert "not measured: out of memory" in format_report(report)


def test_audio_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(2 * 8000) / 5), 8000)
    report = run(tmp_path / "x.json", "--audio", str(path))
    expected = {"source": str(path), "seconds": 2.0, "was_cut": False}
    assert report["cases"][0]["audio"] == expected
    assert report["settings"]["seed"] is None


def test_organisers_protocol_is_labelled_and_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log-mel outside the timer, one decode step, means, memory never reset."""
    resets: list[str] = []
    monkeypatch.setattr(memory, "_reset_process_peak", lambda: resets.append("reset"))
    report = run(tmp_path / "x.json", "--compat")
    assert report["protocol"] == "organiser's protocol (--compat)"
    samples = report["samples"]
    assert len(samples) == 3
    mean = np.mean([sample["ttft_seconds"] for sample in samples])
    assert report["mean_ttft_seconds"] == pytest.approx(mean)
    for sample in samples:
        parts = sample["ttft_seconds"] + sample["tpot_seconds"]
        assert sample["inference_seconds"] >= parts
    assert not resets
    printed = capsys.readouterr().out
    assert "organiser's protocol" in printed
    assert "not comparable" in printed
    with pytest.raises(UserError, match="--compat measures 10 s of noise at batch 1"):
        run(tmp_path / "y.json", "--compat", "--seconds", "5")


def test_hub_token_is_never_written(tmp_path: Path) -> None:
    secret = "hub" + "-secret-7"
    run(tmp_path / "x.json", options=(f"model.token={secret}",))
    assert secret not in (tmp_path / "x.json").read_text()


# --- decoding -------------------------------------------------------------------------------


def forced_and_generated(model: SALMONN, inputs: LlmInputs, num_new_tokens: int) -> tuple[Any, Any]:
    """Ids of the timed loop, and of transformers' `generate` made to write as many."""
    end_text = model.text_options.end_text
    stop_ids = stop_token_ids(model.llm, model.llama_tokenizer, end_text)
    decoder = ForcedDecoder(model.llm, stop_ids, num_new_tokens)
    forced = decoder.decode(decoder.prefill(inputs))
    options = GenerateConfig(max_new_tokens=num_new_tokens, min_length=num_new_tokens, num_beams=1)
    with torch.no_grad():
        generated = generate_ids(model.llm, model.llama_tokenizer, inputs, options, end_text)
    return forced, generated


@pytest.mark.parametrize("variant", ["dev", "nobeats"])
def test_timed_answer_equals_generate(variant: str) -> None:
    model, log_mel = Golden(variant, "lora").build_model(), load_log_mel(variant)
    clip = build_synthetic_clip(3.0, seed=1)
    # nobeats ends answers with several tokens: `generate` would stop at their text, never here
    workload = Workload(model, log_mel, clip.samples, PROMPT, num_new_tokens=24, batch_size=2)
    workload.answer()
    assert workload.outcome is not None

    spectrogram = log_mel(clip.samples).expand(2, -1, -1)
    raw_wav = torch.from_numpy(clip.samples).expand(2, -1)
    with torch.no_grad():
        inputs = model.prepare({"spectrogram": spectrogram, "raw_wav": raw_wav}, [PROMPT] * 2)
    _, generated = forced_and_generated(model, inputs, 24)
    assert workload.outcome.new_ids.tolist() == generated.tolist()
    assert workload.outcome.num_prompt_positions == inputs.attention_mask.shape[1]


def test_padded_rows_equal_generate(dev_model: SALMONN) -> None:
    model = dev_model
    width = model.llm.get_input_embeddings().embedding_dim
    embeds = torch.randn(2, 12, width, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    forced, generated = forced_and_generated(model, LlmInputs(embeds, mask, mask), 20)
    assert forced.tolist() == generated.tolist()


def test_stop_tokens_are_never_written(dev_model: SALMONN) -> None:
    """The two tokens the LLM likes best are declared to be stops: it writes on without them."""
    model = dev_model
    width = model.llm.get_input_embeddings().embedding_dim
    embeds = torch.randn(1, 9, width, generator=torch.Generator().manual_seed(3))
    inputs = LlmInputs(embeds, torch.ones(1, 9, dtype=torch.long), torch.zeros(1, 9))
    free = ForcedDecoder(model.llm, [], 12)
    liked = free.decode(free.prefill(inputs))[0, :2].tolist()
    forced = ForcedDecoder(model.llm, liked, 12)
    ids = forced.decode(forced.prefill(inputs))[0].tolist()
    assert len(ids) == 12
    assert not set(ids) & set(liked)


def test_each_step_reads_one_token_on_the_prefills_cache(
    dev_model: SALMONN, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dev_model
    calls: list[tuple[int, int, int]] = []
    base = model.llm.get_base_model()
    forward = base.forward

    @functools.wraps(forward)
    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs["cache"] if "cache" in kwargs else kwargs["past_key_values"]
        num_past = cache.get_seq_length()
        output = forward(*args, **kwargs)
        calls.append((kwargs["inputs_embeds"].shape[1], num_past, output.logits.shape[1]))
        return output

    step = LeanStep.__call__

    def recording_step(self: LeanStep, cache: Any, *args: Any) -> torch.Tensor:
        num_past = cache.get_seq_length()
        logits = step(self, cache, *args)
        calls.append((args[-1].shape[1], num_past, logits.shape[1]))
        return logits

    monkeypatch.setattr(base, "forward", recording_forward)
    monkeypatch.setattr(LeanStep, "__call__", recording_step)
    clip = build_synthetic_clip(1.0, seed=0)
    workload = Workload(model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=4)
    workload.answer()
    assert workload.outcome is not None
    num_prompt = workload.outcome.num_prompt_positions
    assert calls == [(num_prompt, 0, 1), *[(1, num_prompt + step, 1) for step in range(3)]]


def test_the_prefix_is_read_by_the_first_answer_alone(dev_model: SALMONN) -> None:
    outcomes, flops = [], []
    for keeps_prefix in (False, True):
        question = Question(dev_model, load_log_mel(), PROMPT, keeps_prefix=keeps_prefix)
        workload = question.ask(Case(build_synthetic_clip(1.0, seed=0), 2), 8)
        for _ in range(2):
            flops.append(count_operations(workload)["prefill"]["flops"])
            assert workload.outcome is not None
            outcomes.append(workload.outcome)
    assert all(torch.equal(outcome.new_ids, outcomes[0].new_ids) for outcome in outcomes)
    assert len({outcome.num_prompt_positions for outcome in outcomes}) == 1
    assert flops[0] == flops[1]
    assert flops[3] < flops[2] < flops[0]  # not at all, for one row in place of two, for both


def test_answer_longer_than_the_context_is_refused(dev_model: SALMONN) -> None:
    model = dev_model
    limit = model.llm.config.get_text_config().max_position_embeddings
    clip = build_synthetic_clip(1.0, seed=0)
    workload = Workload(model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=limit)
    with pytest.raises(UserError, match=f"--new_tokens {limit}: .* {limit} positions"):
        workload.answer()


# --- timing ---------------------------------------------------------------------------------


def make_answer(seconds: float) -> timing.Answer:
    return timing.Answer(
        {"prefill": seconds / 4, "decode": 3 * seconds / 4}, seconds / 4, seconds, 4
    )


def test_cold_call_and_warmup_do_not_count() -> None:
    durations = iter([100.0, 50.0, 40.0, 1.0, 2.0, 3.0])
    told: list[str] = []
    # two at least, at most ten: two groups of five that agree are never there
    warmup = timing.Warmup(2)
    assert not warmup.is_over([1.0])
    assert warmup.num_most == 10
    warmup = SimpleNamespace(is_over=lambda warm: len(warm) == 2)
    iterations = timing.repeat_answers(
        lambda: make_answer(next(durations)),
        warmup,  # type: ignore[arg-type]
        3,
        told.append,
    )
    assert [kind for kind, _ in iterations] == ["cold", "warmup", "warmup", *["measured"] * 3]
    assert told == [kind for kind, _ in iterations]
    summary = timing.summarise_measured(iterations)
    assert summary["total_seconds"]["mean"] == 2.0
    assert summary["total_seconds"]["max"] == 3.0
    assert summary["tpot_seconds"]["p50"] == 0.5  # (2 - 0.5) / 3


def test_warmup_lasts_until_the_times_are_stable() -> None:
    warmup = timing.Warmup(10)
    falling = [100.0 * 0.9**n for n in range(200)]
    counts = [n for n in range(200) if warmup.is_over(falling[:n])]
    assert counts[0] == 50  # never stable: five times the least
    settled = [*falling[:20], *[8.0] * 200]
    assert not any(warmup.is_over(settled[:n]) for n in range(28))
    assert warmup.is_over(settled[:28])  # the last three of a group of five decide its median
    assert timing.Warmup(0).is_over([])


def test_summarise_known_values() -> None:
    summary = timing.summarise([float(value) for value in range(101)])
    assert (summary["p50"], summary["p90"], summary["p99"]) == (50.0, 90.0, 99.0)
    assert summary["std"] == pytest.approx(29.300170647967224)  # sqrt(101 * 102 / 12)
    # the mean of 101 draws from 0 ... 100 has the deviation 29.15 / sqrt(101) = 2.9
    assert summary["mean_low"] == pytest.approx(50 - 1.96 * 2.9, abs=1)
    assert summary["mean_high"] == pytest.approx(50 + 1.96 * 2.9, abs=1)
    assert timing.summarise([2.0])["std"] is None


def test_gpu_clock_marks_with_events_and_waits_at_both_ends_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class FakeEvent:
        clock = iter(range(100))

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            self.ms = 10.0 * next(self.clock)
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait for event")

        def elapsed_time(self, other: "FakeEvent") -> float:
            return other.ms - self.ms

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    clock = timing.PhaseClock(torch.device("cuda"))
    clock.end_phase("prefill")
    clock.end_token()
    clock.end_token()
    clock.end_phase("decode")
    clock.stop()
    assert log == ["wait", *["event"] * 5, "wait"]
    assert clock.phase_seconds == pytest.approx({"prefill": 0.01, "decode": 0.03})
    assert clock.token_seconds == pytest.approx([0.01, 0.01])
    assert clock.seconds_until("decode") == pytest.approx(0.04)


def test_phase_that_ends_twice_gets_both_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    clock = timing.PhaseClock(CPU)
    for name in ("whisper", "fbank", "whisper"):
        clock.end_phase(name)
    assert clock.phase_seconds == {"whisper": 4.0, "fbank": 2.0}
    assert clock.seconds_until("whisper") == 6.0


# --- memory ---------------------------------------------------------------------------------


def test_weights_of_parts_and_tied_weights_once(dev_model: SALMONN) -> None:
    model = dev_model
    sizes = memory.measure_weights(model)
    whisper = model.speech_encoder
    assert sizes["whisper"] == 4 * sum(p.numel() for p in whisper.parameters())
    adapters = [p for name, p in model.llm.named_parameters() if "lora_" in name]
    assert sizes["adapters"] == 4 * sum(p.numel() for p in adapters) > 0
    base = model.llm.get_base_model()
    assert base.lm_head.weight is base.model.embed_tokens.weight
    own = sum(p.numel() for name, p in base.named_parameters() if "lora_" not in name)
    buffers = sum(buffer.nbytes for buffer in base.buffers())
    assert sizes["llm"] == 4 * own + buffers
    connector = [
        p
        for name, p in model.named_parameters()
        if not name.startswith(("speech_encoder.", "beats.", "llama_model."))
    ]
    fixed = sum(b.nbytes for b in model.speech_Qformer.buffers()) if model.speech_Qformer else 0
    assert sizes["qformer_and_projector"] == 4 * sum(p.numel() for p in connector) + fixed


def test_real_number_types_count() -> None:
    model = nn.Module()
    model.speech_encoder = nn.Linear(8, 4, bias=False).half()
    model.llama_model = nn.Linear(8, 4, bias=False)
    assert memory.measure_weights(model)["whisper"] == 64
    assert memory.measure_weights_by_type(model) == {"float32": 128, "float16": 64}


@pytest.mark.parametrize(("quantization", "bits"), [("nf4", 4), ("int8", 8)])
def test_quantised_weights(dev: Golden, dev_model: SALMONN, quantization: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    model = dev.build_model(quantization=quantization, nf4_double_quant=False)
    names = ("Linear4bit", "Linear8bitLt")  # peft's wrappers are called the same
    modules = [m for m in model.llm.modules() if type(m).__name__ in names]
    linears: list[Any] = [m for m in modules if not hasattr(m, "base_layer")]
    assert linears
    num_quantised = sum(m.in_features * m.out_features for m in linears)
    plain = memory.measure_weights(dev_model)["llm"]
    packed = plain - 4 * num_quantised + num_quantised * bits // 8
    clip = build_synthetic_clip(1.0, seed=0)
    for is_used in (False, True):
        size = memory.measure_weights(model)["llm"]
        if quantization == "nf4":
            # a maximum per 64 weights, 16 float32 levels per layer; the first call of the CPU
            # kernel may turn the maxima from float32 into bfloat16
            possible = {b * num_quantised // 64 + 64 * len(linears) for b in {4, 4 - 2 * is_used}}
        else:
            possible = {4 * sum(m.out_features for m in linears)}  # one scale per row
        assert size - packed in possible
        Workload(model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=2).answer()


@has_reset
def test_peak_excludes_what_was_freed_before_and_includes_what_comes_after() -> None:
    ballast = np.ones(300 * MIB, dtype=np.uint8)
    earlier_peak = memory.read_process_bytes("VmHWM") or 0
    del ballast
    meter = memory.PeakMeter(CPU)
    used: Any = meter.read()
    assert used.process_peak_bytes < earlier_peak - 250 * MIB
    work = np.ones(200 * MIB, dtype=np.uint8)
    del work
    used = meter.read()
    assert used.process_peak_bytes >= used.process_before_bytes + 190 * MIB
    assert used.process_after_bytes < used.process_before_bytes + 50 * MIB


@has_reset
def test_reported_peak_excludes_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_config = SALMONN.from_config

    def load_wastefully(*args: Any, **kwargs: Any) -> SALMONN:
        ballast = np.ones(300 * MIB, dtype=np.uint8)
        del ballast
        return from_config(*args, **kwargs)

    monkeypatch.setattr(SALMONN, "from_config", load_wastefully)
    used = run(tmp_path / "x.json")["cases"][0]["memory"]
    # the tiny model itself needs some 50 MiB to encode 10 s
    assert used["process_before_bytes"] <= used["process_peak_bytes"]
    assert used["process_peak_bytes"] < used["process_before_bytes"] + 200 * MIB


@pytest.mark.parametrize("is_ignored", [False, True], ids=["not permitted", "without effect"])
def test_peak_is_none_where_it_cannot_be_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ignored: bool
) -> None:
    ballast = np.ones(100 * MIB, dtype=np.uint8)
    del ballast
    fake = tmp_path / "clear_refs" if is_ignored else tmp_path / "no" / "clear_refs"
    monkeypatch.setattr(memory, "CLEAR_REFS_PATH", fake)
    if is_ignored:
        status = tmp_path / "status"
        status.write_text("VmHWM:\t  900000 kB\nVmRSS:\t  100000 kB\n")
        monkeypatch.setattr(memory, "STATUS_PATH", status)
    use = memory.PeakMeter(CPU).read()
    assert use.process_peak_bytes is None


def test_nothing_is_measured_off_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS_PATH", tmp_path / "no_status")
    monkeypatch.setattr(memory, "CLEAR_REFS_PATH", tmp_path / "no" / "clear_refs")
    assert set(memory.PeakMeter(CPU).read().as_dict().values()) == {None}


def test_gpu_peak_is_reset_first_and_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    readings = {"memory_allocated": 1, "max_memory_allocated": 2, "max_memory_reserved": 3}
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    for name, value in readings.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    meter = memory.PeakMeter(torch.device("cuda"))
    assert calls == ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    use = meter.read()
    assert calls[-1] == "synchronize"
    assert (use.gpu_before_bytes, use.gpu_peak_allocated_bytes) == (1, 2)
    assert use.gpu_peak_reserved_bytes == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_gpu(tmp_path: Path) -> None:
    report = run(tmp_path / "x.json", "--device", "cuda")
    used = report["cases"][0]["memory"]
    for times in report["cases"][0]["iterations"]:
        phases = sum(times[f"{name}_seconds"] for name in PHASES)
        assert phases == pytest.approx(times["wall_seconds"], rel=0.02)
    assert used["gpu_before_bytes"] >= report["weights_bytes"]["total"]
    assert used["gpu_peak_allocated_bytes"] > used["gpu_before_bytes"]
    assert used["gpu_peak_reserved_bytes"] >= used["gpu_peak_allocated_bytes"]


def test_noise_is_seeded_noise() -> None:
    clip = build_noise_clip(1.0, seed=3)
    assert (clip.samples == build_noise_clip(1.0, seed=3).samples).all()
    assert (clip.samples != build_noise_clip(1.0, seed=4).samples).any()
    spectrum = np.abs(np.fft.rfft(clip.samples)) ** 2
    low, high = spectrum[1:4000].mean(), spectrum[4000:8000].mean()
    assert low == pytest.approx(high, rel=0.2)  # white


# --- clips ----------------------------------------------------------------------------------


def test_synthetic_clip_is_seeded_audible_and_of_its_length() -> None:
    clip = build_synthetic_clip(1.5, seed=4)
    assert clip.samples.shape == (24000,)
    assert clip.samples.dtype == np.float32
    assert np.abs(clip.samples).max() == pytest.approx(0.5, abs=1e-6)
    assert (clip.samples == build_synthetic_clip(1.5, seed=4).samples).all()
    assert (clip.samples != build_synthetic_clip(1.5, seed=5).samples).any()


def test_seconds_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 3 * 16000), 16000)
    whole = load_timing_clip(path)
    assert (whole.seconds, whole.was_cut) == (3.0, False)
    part = load_timing_clip(path, 2.0)
    assert (part.seconds, part.was_cut) == (2.0, True)
    assert (part.samples == whole.samples[:32000]).all()
    with pytest.raises(UserError, match="--seconds 4: .* is only 3.00 s long"):
        load_timing_clip(path, 4.0)


# --- what users get wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_it", "0"], "--num_it 0: give 1 or more"),
        (["--num_warmup", "-1"], "--num_warmup -1: give 0 or more"),
        (["--new_tokens", "1"], "--new_tokens 1: give 2 or more: TPOT"),
        (["--batch_size", "0"], "--batch_sizes 0: give 1 or more"),
        (["--batch_sizes", "1", "-2"], "--batch_sizes -2: give 1 or more"),
        (["--resume", "auto"], "--resume goes with --sweep"),
        (["--seconds", "31"], "--seconds 31: a clip is 1 to 30 s long"),
        (["--seconds", "nan"], "--seconds nan: a clip is 1 to 30 s long"),
        (["--audio", "no_such.wav"], "no_such.wav: no such file"),
        (["--device", "gpu"], "'gpu' is none of auto, cpu, cuda, cuda:N"),
        (["--device", "mps"], "run.device: mps: only cpu and cuda can be timed"),
        (["--task", "asrr"], "no prompt for task 'asrr' .* did you mean 'asr'"),
        (["--options", "model.test_prompt_path="], "model.test_prompt_path is not set"),
        (["--options", "model.beats_path=no.pt"], "model.beats_path: nothing at"),
        (["--options", "model.ckpt=no.pth"], "model.ckpt: nothing at"),
        (["--options", "run.precision=fp16"], "run.precision: fp16 is for GPUs; .* use fp32"),
    ],
)
def test_bad_input(tmp_path: Path, words: list[str], message: str) -> None:
    out = tmp_path / "x.json"
    config = str(GOLDEN_DIR / "dev" / "config_lora.yaml")
    with pytest.raises(UserError, match=message):
        script.main(["--cfg-path", config, "--out", str(out), *words])
    assert not list(tmp_path.iterdir())


def test_model_without_llm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.only_preprocessor: true builds no LLM"):
        run(tmp_path / "x.json", options=("model.only_preprocessor=true", "model.ckpt="))


def test_exit_status_2_and_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "evaluate_efficiency_salmonn.py"),
        "--cfg-path",
        "no.yaml",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no configuration file at no.yaml")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# --- the file -------------------------------------------------------------------------------


def test_out_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("mine")
    with pytest.raises(UserError, match="already there and never overwritten"):
        choose_report_path(path)
    with pytest.raises(UserError, match="cannot write in"):
        choose_report_path(path / "below_a_file.json")
    # taken between the choice and the end of the measurement
    written = save_report({"a": 1}, path)
    assert written == tmp_path / "x_2.json"
    assert json.loads(written.read_text()) == {"a": 1}
    (tmp_path / "z.html").write_text("mine")
    with pytest.raises(UserError, match=r"z.html: already there"):
        choose_report_path(tmp_path / "z.json")
    with pytest.raises(UserError, match="give the name of the JSON"):
        choose_report_path(tmp_path / "w.html")
    (tmp_path / "z.html").unlink()
    assert path.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x_2.json"]


def test_default_name_is_dated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = choose_report_path(None)
    assert path.parent.name == "efficiency_results"
    assert path.name.endswith("_efficiency.json")
    assert not list(tmp_path.iterdir())
    assert save_report({}, path).is_file()


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        save_report({"a": float("nan")}, tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_commit_is_none_outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.find_commit() is None


def test_precision_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silently another type than `run.precision` says."""
    cuda = torch.device("cuda")
    assert inference_dtype("auto", CPU) == torch.float32
    assert inference_dtype("bf16", CPU) == torch.bfloat16
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda has=has_bfloat16, **options: has
        )
        assert inference_dtype("fp16", cuda) == torch.float16
        assert inference_dtype("auto", cuda) == (torch.bfloat16 if has_bfloat16 else torch.float16)
    with pytest.raises(UserError, match="bf16, which this GPU does not have; use fp16"):
        inference_dtype("bf16", cuda)
