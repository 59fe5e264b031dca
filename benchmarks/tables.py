"""Tables of a benchmark run beside the reference's figures and the plain way's.

    python benchmarks/tables.py RESULT.json

In: a JSON of `midsize.py`, and the recorded figures of the reference implementation. Out: Markdown.
Ratios are ours / theirs; a target is the largest ratio to the reference that is good enough.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_PATH = ROOT / "tests" / "data" / "golden" / "bench.json"
HEADER = "| | ours | reference | ratio | target | plain way | ratio |"
NONE = "–"


@dataclass(frozen=True)
class Row:
    """One line: what to call it, which sample it is, whose reference figure and target."""

    label: str
    task: str
    ways: tuple[str, ...]
    name: str
    reference: Callable[[dict[str, Any]], float] | None = None
    targets: Mapping[str, float] | None = None
    plain_name: str = ""  # when the plain way's sample has another name


OURS = ("ours",)
MODES = ("exact", "light")
SAVINGS = (
    "exact_cached", "light_cached", "exact_checkpointed", "light_checkpointed",
    "light_checkpointed_cached", "light_nf4",
)  # fmt: skip
ROWS = (
    Row("build the model", "construct", OURS, "seconds",
        lambda r: r["construct"]["seconds"], {"ours": 0.6}),
    Row("memory of it, peak over imports", "construct", OURS, "peak_over_imports_mb",
        lambda r: r["construct"]["peak_rss_mb"] - r["construct"]["rss_after_import_mb"],
        {"ours": 0.7}),
    Row("memory of it, afterwards over imports", "construct", OURS, "over_imports_mb",
        lambda r: r["construct"]["rss_after_mb"] - r["construct"]["rss_after_import_mb"]),
    Row("training step, batch 4", "train", MODES, "step_seconds",
        lambda r: r["train"]["step_s"], {"exact": 0.7, "light": 0.35}),
    Row("– with savings", "train", SAVINGS, "step_seconds",
        lambda r: r["train"]["step_s"], {"light_cached": 0.25}),
    Row("– forward", "train", MODES, "forward_seconds", lambda r: r["train"]["forward_s"]),
    Row("– backward", "train", MODES, "backward_seconds", lambda r: r["train"]["backward_s"]),
    Row("– optimiser", "train", MODES, "optimiser_seconds", lambda r: r["train"]["optimizer_s"]),
    Row("peak memory of the training process", "train", MODES, "peak_mb",
        lambda r: r["train"]["peak_rss_mb"], {"exact": 0.75, "light": 0.55}),
    Row("– with savings", "train", SAVINGS, "peak_mb", lambda r: r["train"]["peak_rss_mb"]),
    Row("TTFT", "infer", MODES, "ttft_seconds",
        lambda r: r["efficiency"]["ttft_s"], {"exact": 0.7, "light": 0.45}),
    Row("encode the clip", "infer", MODES, "encode_seconds",
        lambda r: r["evaluate"]["batch1"]["encode_s"]),
    Row("– Whisper", "infer", MODES, "whisper_seconds",
        lambda r: r["encode_parts"]["whisper_b4_s"] / 4),
    Row("– BEATs with filterbank", "infer", MODES, "beats_seconds",
        lambda r: (r["encode_parts"]["beats_b4_s"]) / 4),
    Row("TPOT, adapter merged", "infer", MODES, "tpot_merged_seconds",
        lambda r: r["efficiency"]["tpot_s"], {"exact": 0.65, "light": 0.65}, "tpot_seconds"),
    Row("– compiled, adapter merged", "infer", MODES, "tpot_compiled_seconds",
        lambda r: r["efficiency"]["tpot_s"], {"exact": 0.65, "light": 0.65}, "tpot_seconds"),
    Row("– by transformers' generate, adapter merged", "infer", MODES,
        "tpot_generate_merged_seconds", lambda r: r["efficiency"]["tpot_s"], None, "tpot_seconds"),
    Row("TPOT, adapter unmerged", "infer", MODES, "tpot_seconds",
        lambda r: r["efficiency"]["tpot_s"]),
    Row("peak memory of the answering process", "infer", MODES, "peak_mb",
        lambda r: r["efficiency"]["peak_rss_mb"]),
    Row("10 s file to features, 16 kHz", "files", OURS, "file_16000_hz_seconds",
        lambda r: r["dataset"]["getitem_16k_s"], {"ours": 0.7}),
    Row("10 s file to features, 44.1 kHz", "files", OURS, "file_44100_hz_seconds",
        lambda r: r["dataset"]["getitem_44k_s"], {"ours": 0.7}),
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Print the tables of one result."""
    (path,) = arguments
    print(format_tables(json.loads(Path(path).read_text(encoding="utf-8"))))
    return 0


def format_tables(report: Mapping[str, Any]) -> str:
    """One Markdown table per task that was measured."""
    reference = json.loads(REFERENCE_PATH.read_text(encoding="utf-8"))["timings"]
    is_comparable = report["settings"]["size"] == "midsize"
    tables = []
    for task, medians in report["medians"].items():
        lines = [f"### {task}", "", HEADER, "|---|---:|---:|---:|---:|---:|---:|"]
        for row in (row for row in ROWS if row.task == task):
            figure = row.reference(reference) if row.reference and is_comparable else None
            ways = [way for way in row.ways if way in medians]
            lines += [format_row(row, way, medians, figure) for way in ways]
        lines += [
            format_limits(way, medians[way])
            for way in MODES
            if "decode_limit_share" in medians.get(way, {})
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def format_limits(way: str, medians: Mapping[str, float]) -> str:
    """How near the machine's own limits, taken in the same process, a way comes."""
    return (
        f"\n{way}: decoding at {medians['decode_limit_share']:.0%} of the memory bandwidth "
        f"({medians['bandwidth_gb_per_second']:.1f} GB/s), compiled at "
        f"{medians['decode_compiled_limit_share']:.0%}, Whisper at "
        f"{medians['whisper_limit_share']:.0%} of the matrix rate "
        f"({medians['matmul_gflop_per_second']:.0f} GFLOP/s)"
    )


def format_row(row: Row, way: str, medians: Any, reference: float | None) -> str:
    """One line of a table."""
    ours = medians[way][row.name]
    plain = medians["plain"].get(row.plain_name or row.name)
    target = (row.targets or {}).get(way) if reference is not None else None
    is_memory = row.name.endswith("_mb")
    cells = [
        row.label + ("" if way == "ours" else f", {way}"),
        format_value(ours, is_memory),
        format_value(reference, is_memory),
        format_ratio(ours, reference),
        f"≤ {target:g}" if target else NONE,
        format_value(plain, is_memory),
        format_ratio(ours, plain),
    ]
    return f"| {' | '.join(cells)} |"


def format_value(value: float | None, is_memory: bool) -> str:
    """MB as whole numbers; seconds above half a second, milliseconds below."""
    if value is None:
        return NONE
    if is_memory:
        return f"{value:.0f} MB"
    return f"{value:.2f} s" if value >= 0.5 else f"{1000 * value:.1f} ms"


def format_ratio(ours: float, theirs: float | None) -> str:
    """ours / theirs to two places."""
    return NONE if theirs is None else f"{ours / theirs:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
