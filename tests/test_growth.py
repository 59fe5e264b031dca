"""The growth benchmark measures what it names, and its slopes are those of its points."""

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiolm.models.salmonn import SALMONN
from tests.test_efficiency import load_log_mel

BENCHMARKS_DIR = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def growth() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS_DIR))
    yield importlib.import_module("growth")
    sys.path.remove(str(BENCHMARKS_DIR))
    for name in ("growth", "growth_plots", "data_tables", "midsize", "measure", "stack"):
        sys.modules.pop(name, None)


def build_report(growth: Any) -> dict[str, Any]:
    """Straight lines: time 0.5 + 0.02 v seconds (exact) and half of it, memory 100 + 3 v MB."""
    points = []
    for mode, factor in (("exact", 1.0), ("light", 0.5)):
        axes = {"seconds": growth.SECONDS, "batch": growth.BATCHES, "tokens": growth.TOKENS}
        for axis, values in axes.items():
            for value in values:
                seconds = factor * (0.5 + 0.02 * value)
                times = dict.fromkeys(("ttft_seconds", "decode_seconds", "total_seconds"), seconds)
                points.append(
                    {"mode": mode, "axis": axis, "value": value, "added_mb": 100 + 3 * value}
                    | times
                )
    return {"points": points}


def test_slopes_of_straight_lines(growth: Any) -> None:
    from growth_plots import compute_slopes, format_growth  # type: ignore[import-not-found]

    report = build_report(growth)
    for row in compute_slopes(report):
        factor = 1.0 if row["mode"] == "exact" else 0.5
        assert row["time_ms"] == pytest.approx(20 * factor)
        assert row["time_start_ms"] == pytest.approx(500 * factor)
        assert (row["memory_mb"], row["memory_start_mb"]) == pytest.approx((3, 100))
    table = format_growth(report)
    assert "| seconds of audio | exact | TTFT: 20.00 ms per second of audio | 500 ms |" in table
    assert "3000.0 kB per token" in table
    report["points"][0]["added_mb"] = None
    assert "not measured" in format_growth(report)


@pytest.mark.parametrize("axis", ["seconds", "batch", "tokens"])
def test_plots_have_a_mark_per_point(growth: Any, axis: str) -> None:
    from growth_plots import draw_growth  # type: ignore[import-not-found]

    report = build_report(growth)
    svg = ElementTree.fromstring(draw_growth(report, axis))
    marks = svg.findall("{http://www.w3.org/2000/svg}circle")
    assert len(marks) == 2 * sum(point["axis"] == axis for point in report["points"])
    text = "".join(svg.itertext())
    assert "exact: 20.00 ms per" in text
    assert "light: 10.00 ms per" in text


def test_point_is_measured_as_asked(growth: Any, dev_model: SALMONN) -> None:
    asked = {"seconds": 2, "batch": 2, "tokens": 4}
    point = growth.measure_point(dev_model, load_log_mel(), asked, 2)
    assert all(len(values) == 2 for values in point["samples"].values())
    assert point["total_seconds"] >= point["decode_seconds"] > 0
    assert point["added_mb"] is None or point["added_mb"] >= 0


def test_page_gets_slopes_and_plots(growth: Any, tmp_path: Path) -> None:
    report = build_report(growth) | {
        "date": "2026-01-02T03:04:05", "load_average_1_5_15_min": [0.12, 0, 0], "repeats": 3,
        "machine": {"num_usable_cores": 2, "cpu": "CPU", "num_threads": 2},
    }  # fmt: skip
    saved, page = tmp_path / "growth_x.json", tmp_path / "page.md"
    saved.write_text(json.dumps(report))
    page.write_text("before\n<!-- growth -->\nold\n<!-- end of growth -->\nafter\n")
    arguments = ["--draw", str(saved), "--plots", str(tmp_path), "--page", str(page)]
    assert growth.main(arguments) == 0
    text = page.read_text()
    assert "load average 0.1 when it began; medians of 3 answers" in text
    assert "growth_x.json" in text
    assert "old" not in text
    for axis in ("seconds", "batch", "tokens"):
        assert f"(../img/growth_{axis}.svg)" in text
        assert (tmp_path / f"growth_{axis}.svg").is_file()


def test_axes_span_what_they_should(growth: Any) -> None:
    assert (growth.SECONDS[0], growth.SECONDS[-1]) == (1, 30)
    assert (growth.BATCHES[0], growth.BATCHES[-1]) == (1, 16)
    assert (growth.TOKENS[0], growth.TOKENS[-1]) == (16, 256)
