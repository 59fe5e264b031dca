"""`--find-batch-size`: the search, the rule for CPUs, and the command under little memory."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import limited_memory
import processes
import pytest
import train as train_script
from training_runs import DEV, arguments

from audiolm.audio.loading import audio_seconds
from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.models.salmonn import SALMONN
from audiolm.training import batch_size
from audiolm.training.batch_size import HostMemory, find_batch_size, find_largest


@pytest.mark.parametrize("limit", range(35))
def test_the_largest_that_fits_is_found_without_daring_more_than_twice(limit: int) -> None:
    for capacity in range(40):
        tried: list[int] = []

        def fits(size: int, tried: list[int] = tried, capacity: int = capacity) -> bool:
            assert size <= 2 * max([1, *(n for n in tried if n <= capacity)])
            tried.append(size)
            return size <= capacity

        assert find_largest(fits, limit) == min(capacity, limit)
        assert all(1 <= size <= limit for size in tried)
        assert len(set(tried)) == len(tried) <= 2 * limit.bit_length()


def test_a_cpu_is_not_asked_for_more_than_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process grows from 100 to 180 for 4 clips: 20 each; 90 % of 1000 for two are 450."""
    sizes = iter([100, 150, 180] + [120] * 10_000)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=next(sizes)))
    memory = SimpleNamespace(available=1000)
    monkeypatch.setattr(batch_size.psutil, "Process", lambda: process)
    monkeypatch.setattr(batch_size.psutil, "virtual_memory", lambda: memory)
    seen: list[int] = []
    host = HostMemory(num_sharing=2)
    assert host.allows(1)
    real_info = process.memory_info

    def memory_info() -> Any:
        seen.append(1)
        return real_info()

    process.memory_info = memory_info
    with host.watch(4):
        while len(seen) < 4:  # the watcher has looked thrice
            pass
    assert [host.allows(size) for size in (8, 22, 23)] == [True, True, False]


def find(
    tmp_path: Path, memory_clips: str, *changes: str, num_processes: int = 1
) -> processes.Outcome:
    """Run the command on 20 clips in steps of 12, and see that it leaves no file behind."""
    rows = json.loads((DEV / "annotation_asr.json").read_text())["annotation"]
    annotation = tmp_path / "clips.json"
    annotation.write_text(json.dumps({"annotation": rows[:4] * 5}))
    runs, temporary = places = [tmp_path / "runs", tmp_path / "temporary"]
    for place in places:
        place.mkdir()
    data = (f"datasets.train_ann_path={annotation}", f"datasets.prefix={DEV}/audio")
    command = arguments(runs, *data, *changes, "--find-batch-size")
    limits = {"MEMORY_CLIPS": memory_clips, "TMPDIR": str(temporary)}
    outcome = processes.run(limited_memory.main, command, tmp_path, num_processes, **limits)
    assert not [path for place in places for path in place.rglob("*.*")]
    return outcome


def test_the_command_names_the_size_and_options_that_keep_the_step(tmp_path: Path) -> None:
    changes = ("run.batch_size_train=2", "run.accum_grad_iters=6")
    result = find(tmp_path, "5", *changes)
    assert result.statuses == (0,), result.stderr[-2000:]
    assert "largest batch that fits in each process: 5 clips" in result.stdout
    assert result.stdout.endswith("run.batch_size_train=4 run.accum_grad_iters=3\n")


def test_two_processes_take_what_fits_on_both(tmp_path: Path) -> None:
    changes = ("run.batch_size_train=6", "run.accum_grad_iters=1")
    result = find(tmp_path, "7,3", *changes, num_processes=2)
    assert result.statuses == (0, 0), result.stderr[-2000:]
    assert (
        result.stdout.count("largest batch that fits in each process: 3 clips") == 1
    )  # of one process only
    assert "steps of 12 clips as configured: run.batch_size_train=3 run.accum_grad_iters=2" in (
        result.stdout
    )


def test_no_room_for_one_clip_points_to_the_plan(tmp_path: Path) -> None:
    result = find(tmp_path, "0")
    assert result.statuses == (2,)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "not even one clip fits" in line
    assert "--plan" in line


def test_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not work with run\.fsdp.*--plan"):
        train_script.main(arguments(tmp_path, "run.fsdp=true", "--find-batch-size"))


def test_the_worst_batch_has_the_longest_clip_and_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also slowed down as far as augmentation may; the last clip is the longest by far."""
    rows = json.loads((DEV / "annotation_asr.json").read_text())["annotation"]
    rows[0]["text"] = "one two three four " * 5
    annotation = tmp_path / "clips.json"
    annotation.write_text(json.dumps({"annotation": rows}))
    seen: list[tuple[int, set[str], int]] = []
    real_forward = SALMONN.forward

    def forward(model: SALMONN, samples: Any, **options: Any) -> Any:
        seen.append((len(samples["text"]), set(samples["text"]), samples["raw_wav"].shape[1]))
        return real_forward(model, samples, **options)

    monkeypatch.setattr(SALMONN, "forward", forward)
    args = train_script.parse_arguments(
        arguments(
            tmp_path,
            f"datasets.train_ann_path={annotation}",
            "datasets.augment.speed=[0.5, 1.0]",
        )
    )
    config = load_config(args.cfg_path, args.options)
    report = find_batch_size(config)
    assert [number for number, _, _ in seen] == [1, 2, 4, len(rows)]
    assert all(texts == {rows[0]["text"]} for _, texts, _ in seen)
    longest = max(audio_seconds(DEV / "audio" / row["path"]) for row in rows)
    assert {length for *_, length in seen} == {round(min(2 * longest, 30) * 16000)}
    assert "all that the training data hold" in report[0]
