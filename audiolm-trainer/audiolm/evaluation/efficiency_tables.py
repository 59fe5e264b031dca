"""The efficiency report as text: times in ms, memory in MiB, rates and shares of the limit.

In: the plain values of `efficiency_report.build_report`. Out: lines for the screen.
"""

from collections.abc import Mapping
from typing import Any

MIB = 2**20
COLUMNS = ("mean", "std", "min", "p50", "p90", "p99")
BEFORE_FIRST_TOKEN = (
    "log_mel", "whisper", "fbank", "beats", "qformer", "prompt", "prefill", "first_token",
)  # fmt: skip
ROWS = ("load", *BEFORE_FIRST_TOKEN, "ttft", "decode", "tpot", "itl", "detokenise", "total", "wall")
LABELS = {
    "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "log_mel": "log-mel", "whisper": "Whisper",
    "beats": "BEATs", "qformer": "Q-Former", "first_token": "first token",
}  # fmt: skip


def format_report(report: Mapping[str, Any]) -> str:
    """Everything: what was measured, each case, the weights, the machine's limits."""
    settings, machine = report["settings"], report["machine"]
    types = " + ".join(report["weights_bytes_by_type"])
    lines = [
        f"{machine['device']} ({machine['device_name']}), {machine['num_threads']} threads, "
        f"torch {machine['packages']['torch']}, weights {types}",
        f"{settings['num_it']} measured answers per case after a cold one and at least "
        f"{settings['num_warmup']} to warm up; {settings['new_tokens']} new tokens, greedy",
    ]
    for case in report["cases"]:
        lines += ["", *format_case(case, machine["device"] != "cpu")]
    if len(report["cases"]) > 1:
        lines += ["", *format_comparison(report["cases"])]
    lines += ["", f"{'weights':34}{'MiB':>10}"]
    for part, size in report["weights_bytes"].items():
        lines.append(_format_bytes(part.replace("_", " "), size))
    if report["limits"]:
        limits = report["limits"]
        lines += [
            "",
            f"this machine reads {limits['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s and "
            f"multiplies {limits['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s in "
            f"{limits['dtype']} (measured before the answers)",
        ]
    return "\n".join(lines)


def format_case(case: Mapping[str, Any], is_gpu: bool) -> list[str]:
    """One clip and batch size."""
    audio = case["audio"]
    cut = " (cut)" if audio["was_cut"] else ""
    title = f"clip: {audio['source']}, {audio['seconds']:.2f} s{cut}; batch {case['batch_size']}"
    if "error" in case:
        return [title, f"  not measured: {case['error']}"]
    lengths, throughput, warmup = case["lengths"], case["throughput"], case["warmup"]
    stable = "stable" if warmup["is_stable"] else "not shown to be stable"
    return [
        f"{title}; {lengths['num_audio_tokens']} audio tokens in "
        f"{lengths['num_prompt_positions']} prompt positions; "
        f"{lengths['num_new_tokens']} new tokens",
        f"{warmup['num']} answers to warm up, then {stable}",
        "",
        *format_times(case),
        "",
        f"RTFx {throughput['rtfx']:.1f}, {throughput['clips_per_second']:.2f} clips/s, "
        f"{throughput['new_tokens_per_second']:.1f} new tokens/s (file to text)",
        "",
        *format_memory(case, is_gpu),
        *(["", *format_roofline(case)] if case["roofline"] else []),
    ]


def format_times(case: Mapping[str, Any]) -> list[str]:
    """Phases and latencies in ms, the mean with its interval."""
    head = "time, ms".ljust(16) + "".join(f"{name:>9}" for name in COLUMNS)
    lines = [f"{head}{'cold':>10}   95 % of the mean"]
    for row in ROWS:
        name = f"{row}_seconds"
        if name not in case["summary"]:
            continue
        summary = case["summary"][name]
        cells = [_format_ms(summary[column]) for column in COLUMNS]
        label = LABELS.get(row, row)
        label = f"  {label}" if row in BEFORE_FIRST_TOKEN else label
        interval = f"{_format_ms(summary['mean_low'])} to {_format_ms(summary['mean_high'])}"
        cold = _format_ms(case["cold"].get(name))
        lines.append(
            label.ljust(16) + "".join(f"{cell:>9}" for cell in cells) + f"{cold:>10}   {interval}"
        )
    return lines


def format_memory(case: Mapping[str, Any], is_gpu: bool) -> list[str]:
    """Cache, activations, the process and, where there is one, the GPU."""
    memory = case["memory"]
    lines = [
        f"{'memory':34}{'MiB':>10}",
        _format_bytes(
            f"KV cache, {case['lengths']['num_cache_positions']} positions",
            memory["kv_cache_bytes"],
        ),
        _format_bytes("activations, largest phase", memory["activations_peak_bytes"]),
        _format_bytes("process: before the answers", memory["process_before_bytes"]),
        _format_bytes("process: peak of the answers", memory["process_peak_bytes"]),
        _format_bytes("process: after the answers", memory["process_after_bytes"]),
    ]
    if is_gpu:
        lines += [
            _format_bytes("GPU: before the answers", memory["gpu_before_bytes"]),
            _format_bytes("GPU: peak allocated", memory["gpu_peak_allocated_bytes"]),
            _format_bytes("GPU: peak reserved", memory["gpu_peak_reserved_bytes"]),
        ]
    added = [
        f"{LABELS.get(name, name)} {use['added_bytes'] / MIB:.1f}"
        for name, use in memory["phases"].items()
        if use["added_bytes"] is not None
    ]
    if added:
        lines.append(f"  added at its peak by each phase: {', '.join(added)}")
    return lines


def format_roofline(case: Mapping[str, Any]) -> list[str]:
    """Each phase against the least time that the machine needs for it."""
    head = f"{'limit':12}{'GFLOP':>10}{'MB':>10}{'bound by':>10}{'limit, ms':>11}{'p50, ms':>10}"
    lines = [f"{head}{'share':>8}"]
    for row in case["roofline"]:
        lines.append(
            f"  {LABELS.get(row['phase'], row['phase']):10}{row['flops'] / 1e9:>10.3f}"
            f"{row['num_bytes'] / 1e6:>10.2f}{row['bound']:>10}"
            f"{1000 * row['limit_seconds']:>11.2f}{1000 * row['seconds']:>10.2f}"
            f"{row['share']:>8.1%}"
        )
    return lines


def format_comparison(cases: list[Mapping[str, Any]]) -> list[str]:
    """One line per case."""
    titles = ("clip", "s", "batch", "TTFT, ms", "TPOT, ms", "RTFx", "clips/s", "tokens/s")
    widths = (24, 7, 7, 11, 11, 9, 9, 10)
    lines = ["".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True))]
    for case in cases:
        source = case["audio"]["source"][-22:]
        cells = [source, f"{case['audio']['seconds']:.1f}", str(case["batch_size"])]
        if "error" in case:
            lines.append("".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=False))
                         + "  not measured")  # fmt: skip
            continue
        summary, throughput = case["summary"], case["throughput"]
        cells += [
            _format_ms(summary["ttft_seconds"]["p50"]),
            _format_ms(summary["tpot_seconds"]["p50"]),
            f"{throughput['rtfx']:.1f}",
            f"{throughput['clips_per_second']:.2f}",
            f"{throughput['new_tokens_per_second']:.1f}",
        ]
        lines.append("".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    return [*lines, "TTFT and TPOT are medians of an answer to the whole batch"]


def _format_ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _format_bytes(label: str, size: int | None) -> str:
    amount = "not measured" if size is None else f"{size / MIB:.1f}"
    return f"  {label:32}{amount:>10}"
