"""The benchmarks of data and of rescoring run in small: what they print is whole, JSON too."""

import importlib
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
    tables = importlib.import_module("data_tables")

    rows = [10**power for power in range(3, 8)]
    assert tables.fit_slope(rows, [3e-6 * number**0.5 for number in rows]) == pytest.approx(0.5)
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
    texts = [
        text.text for text in ElementTree.fromstring(tables.draw_growth(report)).iter() if text.text
    ]
    assert {label for _, label, _ in tables.CURVES} < set(texts)
    assert "slope 1.00 from 10^5 on" in texts
    assert "slope 0.00 from 10^5 on" in texts


def test_tables_go_into_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("data_tables")

    report = {
        "benchmark": "data_loading",
        "date": "2026-01-02T03:04:05+00:00",
        "load_average_1_5_15_min": [0.1, 0.2, 0.3],
        "settings": {"clips": 2},
        "machine": {"num_usable_cores": 2, "cpu": "Some CPU"},
        "clips_per_second": {f"mp3, 16 kHz/0/{way}": [4.0] for way in ("ours", "librosa", "plain")},
    }
    result, page = tmp_path / "r.json", tmp_path / "page.md"
    result.write_text(json.dumps(report))
    page.write_text("a\n<!-- data_loading -->\nold\n<!-- end of data_loading -->\nb\n")
    for _ in range(2):
        assert tables.main([str(result), "--page", str(page)]) == 0
        first, *_, last = page.read_text().splitlines()
        assert (first, last) == ("a", "b")
        assert page.read_text().count("| mp3, 16 kHz | 0 | 4 | 4 | 4 | 1.0 | 1.0 |") == 1
    assert "2026-01-02, 2 cores of Some CPU, load average 0.1" in page.read_text()
    with pytest.raises(ValueError, match="data_scale"):
        tables.replace_section(page.read_text(), "data_scale", "x")


def test_the_page_has_places_for_both_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("data_tables")

    page = (BENCHMARKS.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    for name in ("data_scale", "data_loading"):
        assert "text of the test" in tables.replace_section(page, name, "text of the test")


def test_rescoring(tmp_path: Path) -> None:
    options = ["--clips", "20", "--repeats", "1"]
    *runs, _, _, asr, aac = run_script("rescore.py", "--work", str(tmp_path), *options)
    assert [json.loads(line)["kind"] for line in runs] == ["asr", "aac"]
    assert all(json.loads(line)["peak_mib"] > 1 for line in runs)
    assert asr.startswith("| asr | 20 | ")
    assert aac.startswith("| aac | 20 | ")
