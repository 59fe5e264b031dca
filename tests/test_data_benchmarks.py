"""The benchmarks of data run in small: what they print is whole."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run_script(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_scale(tmp_path: Path) -> None:
    options = ["--rows", "30", "80", "--batches", "3", "--workers", "1"]
    first, second, *table = run_script("data_scale.py", "--work", str(tmp_path), *options)
    assert [json.loads(line)["num_rows"] for line in (first, second)] == [30, 80]
    assert all(json.loads(line)["worker_private_mib"] > 1 for line in (first, second))
    assert len(table) == 4
    assert table[2].startswith("| 30 | ")


def test_loading(tmp_path: Path) -> None:
    options = ["--clips", "2", "--rounds", "1", "--workers", "0"]
    first, *table = run_script("data_loading.py", "--work", str(tmp_path), *options)
    samples = json.loads(first)["clips_per_second"]
    assert len(samples) == 4 * 3
    assert all(speed > 0 for speeds in samples.values() for speed in speeds)
    assert len(table) == 2 + 4
