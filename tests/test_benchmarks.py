"""The benchmarks run, on the tiny stack: each task in each way, the JSON, the tables."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.data.batches import collate
from audiolm.errors import UserError

BENCHMARKS_DIR = Path(__file__).resolve().parents[1] / "benchmarks"
EXPECTED_NAMES = {
    "construct": {
        "seconds",
        "over_imports_mb",
        "peak_over_imports_mb",
        "import_seconds",
        "imports_mb",
        "num_parameters",
        "num_trainable",
    },
    "train": {
        "step_seconds",
        "forward_seconds",
        "backward_seconds",
        "optimiser_seconds",
        "peak_mb",
    },
    "infer": {
        "log_mel_seconds",
        "encode_seconds",
        "ttft_seconds",
        "tpot_seconds",
        "peak_mb",
        "whisper_seconds",
        "beats_seconds",
    },
    "files": {"file_16000_hz_seconds", "file_44100_hz_seconds"},
}
MERGED_NAMES = {
    "tpot_merged_seconds",
    "tpot_compiled_seconds",
    "decode_compiled_limit_share",
    "ttft_merged_seconds",
    "tpot_generate_merged_seconds",
    "num_prompt_positions",
    "bandwidth_gb_per_second",
    "matmul_gflop_per_second",
    *(f"{phase}_limit_share" for phase in ("whisper", "decode")),
}


@pytest.fixture(scope="module")
def midsize() -> Iterator[Any]:
    """`benchmarks/midsize.py` as a module; its neighbours can be imported meanwhile."""
    sys.path.insert(0, str(BENCHMARKS_DIR))
    yield importlib.import_module("midsize")
    sys.path.remove(str(BENCHMARKS_DIR))
    for name in ("midsize", "measure", "plain", "tables"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def work(midsize: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stack and clips."""
    folder = tmp_path_factory.mktemp("benchmarks")
    midsize.build_inputs(midsize.Setup(folder, "tiny", repeats=1, plain_attention="sdpa"))
    return folder


@pytest.fixture(scope="module")
def setup(midsize: Any, work: Path) -> Any:
    return midsize.Setup(work, "tiny", repeats=2, plain_attention="sdpa")


@pytest.mark.parametrize(
    ("task", "way"),
    [
        ("construct", "ours"),
        ("construct", "plain"),
        ("train", "exact"),
        ("train", "light"),
        ("train", "exact_cached"),
        ("train", "light_cached"),
        ("train", "exact_checkpointed"),
        ("train", "light_checkpointed"),
        ("train", "light_checkpointed_cached"),
        ("train", "light_nf4"),
        ("train", "plain"),
        ("infer", "exact"),
        ("infer", "light"),
        ("infer", "plain"),
        ("files", "in_turn"),
    ],
)
def test_every_way_gives_its_samples(midsize: Any, setup: Any, task: str, way: str) -> None:
    result = midsize.measure(task, way, setup)
    json.dumps(result)
    assert set(result) == ({"ours", "plain"} if task == "files" else {way})
    for measured_way, samples in result.items():
        expected = EXPECTED_NAMES[task]
        if task == "infer" and measured_way != "plain":
            assert expected | MERGED_NAMES <= set(samples)
        else:
            assert expected == set(samples)
        for name, values in samples.items():
            assert values, name
            assert all(value >= 0 for value in values), name
    if task in ("train", "infer"):
        name = {"train": "step_seconds", "infer": "ttft_seconds"}[task]
        assert len(result[way][name]) == 2  # the warm-up is not among them


def test_every_way_is_tested(midsize: Any) -> None:
    (mark,) = test_every_way_gives_its_samples.pytestmark  # type: ignore[attr-defined]
    assert mark.args[1] == [(task, way) for task, ways in midsize.WAYS.items() for way in ways]


def test_plain_model_computes_what_exact_mode_does(midsize: Any, setup: Any) -> None:
    """The two do the same work: equal weights give equal losses (up to float32 rounding)."""
    measure = importlib.import_module("measure")
    ours, plain = (measure.build_model(way, setup) for way in ("exact", "plain"))
    plain.load_state_dict(ours.state_dict())
    dataset = measure.build_dataset(setup, 16_000)
    batch = collate([dataset[index] for index in range(measure.BATCH_SIZE)])
    prompts = [measure.PROMPT] * measure.BATCH_SIZE
    with torch.no_grad():
        losses = [model(batch, verbose=False, prompts=prompts)["loss"] for model in (ours, plain)]
    assert losses[0] > 1  # not a trivial one
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)
    trained = [
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, plain)
    ]
    assert trained[0] == trained[1]


def test_light_mode_reads_the_real_audio_only(midsize: Any, setup: Any) -> None:
    positions = {
        way: midsize.measure("infer", way, setup)[way]["num_prompt_positions"][0]
        for way in ("exact", "light")
    }
    assert positions["exact"] - positions["light"] == 88 - 30  # 10 s of 30 s


def test_run_in_a_fresh_process(
    midsize: Any, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stack (reused) to JSON and tables, with one measuring process."""
    out = tmp_path / "made" / "result.json"
    options = "files --size tiny --rounds 1 --repeats 1 --threads 1".split()
    assert midsize.main([*options, "--work", str(work), "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == {
        "date",
        "load_average_1_5_15_min",
        "settings",
        "machine",
        "commit",
        "others_busy_max_cores",
        "medians",
        "processes",
    }
    assert report["machine"]["num_threads"] == report["settings"]["omp_num_threads"] == 1
    (process,) = report["processes"]
    values = process["samples"]["plain"]["file_16000_hz_seconds"]
    assert len(values) == 10
    medians = report["medians"]["files"]
    assert min(values) <= medians["plain"]["file_16000_hz_seconds"] <= max(values)
    printed = capsys.readouterr().out
    assert "| 10 s file to features, 44.1 kHz |" in printed
    assert str(out) in printed


def test_medians_are_over_all_processes_of_a_way(midsize: Any) -> None:
    processes = [
        {"task": "train", "samples": {"exact": {"step_seconds": [1.0, 5.0]}}},
        {"task": "train", "samples": {"plain": {"step_seconds": [9.0]}}},
        {"task": "train", "samples": {"exact": {"step_seconds": [2.0]}}},
    ]
    assert midsize.compute_medians(processes) == {
        "train": {"exact": {"step_seconds": 2.0}, "plain": {"step_seconds": 9.0}}
    }


def test_tables_compare_with_reference_and_plain_way(midsize: Any) -> None:
    tables = importlib.import_module("tables")
    names = [row.name for row in tables.ROWS if row.task == "train"]
    report = {
        "settings": {"size": "midsize"},
        "medians": {
            "train": {
                "exact": dict.fromkeys(names, 3.54335),  # half of the reference's step
                "light": dict.fromkeys(names, 0.1),
                "plain": dict.fromkeys(names, 7.0867),
            }
        },
    }
    lines = tables.format_tables(report).splitlines()
    expected = "| training step, batch 4, exact | 3.54 s | 7.09 s | 0.50 | ≤ 0.7 | 7.09 s | 0.50 |"
    assert expected in lines
    tiny = tables.format_tables(report | {"settings": {"size": "tiny"}})
    assert "7.09 s | 0.50 |" in tiny
    assert "≤" not in tiny  # the reference's figures are of the mid-size stack


def test_mistakes_are_told_in_one_line(midsize: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--way exact: construct has"):
        midsize.main(["construct", "--way", "exact"])
    with pytest.raises(UserError, match="--rounds, --repeats and --threads must be at least 1"):
        midsize.main(["all", "--rounds", "0"])
    arguments = ["files", "--size", "tiny", "--threads", "1", "--work", str(tmp_path)]
    args = midsize.parse_arguments(arguments)
    with pytest.raises(UserError, match=r"files in_turn ended with status 2: .*error: "):
        midsize.run_process(args, "files", "in_turn")  # the inputs were not made
