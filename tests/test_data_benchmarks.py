"""The benchmarks of data run in small: what they print is whole, and so is their JSON."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run_script(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_scale(tmp_path: Path) -> None:
    options = ["--rows", "30", "80", "--batches", "3", "--workers", "1"]
    printed = run_script("data_scale.py", "--work", str(tmp_path), *options)
    report = json.loads((tmp_path / "data_scale.json").read_text())
    assert [row["num_rows"] for row in report["rows"]] == [30, 80]
    for row in report["rows"]:
        assert len(row["worker_private_mib"]) == 1
        assert row["worker_private_mib"][0] > 1
        assert 10 < row["index_peak_mib"] < row["main_peak_mib"]
    again = run_script("data_tables.py", str(tmp_path / "data_scale.json"))
    assert printed[:4] == again[:4]
    assert again[2].startswith("| 30 | ")
    assert not list(tmp_path.glob("rows_*"))


def test_loading(tmp_path: Path) -> None:
    options = ["--clips", "2", "--rounds", "1", "--workers", "0"]
    printed = run_script("data_loading.py", "--work", str(tmp_path), *options)
    report = json.loads((tmp_path / "data_loading.json").read_text())
    samples = report["clips_per_second"]
    assert len(samples) == 4 * 3
    assert all(speed > 0 for speeds in samples.values() for speed in speeds)
    again = run_script("data_tables.py", str(tmp_path / "data_loading.json"))
    assert printed[:6] == again[:6]
    assert again[2].startswith("| wav, 16 kHz | 0 | ")


def test_plot_of_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from data_tables import CURVES, draw_growth, fit_slope

    rows = [10**power for power in range(3, 8)]
    assert fit_slope(rows, [3e-6 * number**0.5 for number in rows]) == pytest.approx(0.5)
    report = {
        "rows": [
            {
                "num_rows": number,
                "index_seconds": 1e-5 * number,
                "shuffle_seconds": 1e-7 * number,
                "open_seconds": 1e-4,
            }
            for number in rows
        ]
    }
    texts = [text.text for text in ElementTree.fromstring(draw_growth(report)).iter() if text.text]
    assert {label for _, label, _ in CURVES} < set(texts)
    assert "slope 1.00 from 10^5 on" in texts
    assert "slope 0.00 from 10^5 on" in texts
