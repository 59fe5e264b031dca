"""Large annotations: an index on disk gives the same clips as a list, and is made anew when due."""

import itertools
import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiolm.data import annotations, clip_index
from audiolm.data.annotations import iterate_clips, load_annotation
from audiolm.data.clip_index import ClipIndex, open_index
from audiolm.data.clips import Clip, collect_shard_ends, collect_tasks, group_by_task
from audiolm.errors import UserError
from tests.corpora import write_entries

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ROW = st.fixed_dictionaries(
    {"path": st.from_regex(r"[a-z]{1,3}/\w\.wav", fullmatch=True)},
    optional={
        "text": TEXTS | st.lists(TEXTS, min_size=1, max_size=3),
        "task": st.none() | TEXTS,
        "Q": st.none() | TEXTS,
        "testset_id": st.none() | TEXTS,
        "expand_wav": st.none() | st.lists(TEXTS, max_size=2),
        "offset": st.floats(0, 1e6),
        "duration": st.floats(0.01, 1e6),
    },
)
SECONDS = itertools.count(1)
PLACE = {"shard": "s.tar", "shard_offset": 512, "shard_bytes": 90_000_000_000}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clip_index, "ROWS_PER_BATCH", 4)
    monkeypatch.setattr(annotations, "INDEXED_FROM_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_rows(num_rows: int) -> list[dict[str, Any]]:
    return [{"path": f"{i}.wav", "text": f"text {i}", "duration": i + 0.5} for i in range(num_rows)]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROW | ROW.map(lambda row: row | PLACE), min_size=1, max_size=13))
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.jsonl.gz"])
def test_index_equals_the_list(rows: list[dict[str, Any]], name: str, tmp_path: Path) -> None:
    path = write_entries(tmp_path / name, rows)
    os.utime(path, (next(SECONDS), next(SECONDS)))  # the clock may be too coarse to tell
    expected = list(iterate_clips(path))
    clips = load_annotation(path)
    assert isinstance(clips, ClipIndex)
    assert len(clips) == len(expected)
    assert list(clips) == expected
    assert [clips[index] for index in range(len(clips))] == expected
    assert clips[-1] == expected[-1]
    assert clips[1:5] == expected[1:5]
    assert clips[::-2] == expected[::-2]
    assert clips.has_all_texts == all(clip.texts for clip in expected)
    assert collect_tasks(clips) == collect_tasks(expected)
    ours, theirs = group_by_task(clips), group_by_task(expected)
    assert {task: list(found) for task, found in ours.items()} == {
        task: list(found) for task, found in theirs.items()
    }
    assert list(ours) == list(theirs)
    assert collect_shard_ends(clips) == collect_shard_ends(expected)
    seconds = [np.nan if clip.seconds is None else clip.seconds for clip in expected]
    np.testing.assert_array_equal(clips.load_seconds(), np.asarray(seconds, np.float32))
    with pytest.raises(IndexError):
        clips[len(expected)]


def test_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_entries(tmp_path / "x.jsonl", make_rows(10))
    load_annotation(path)
    assert sorted(os.listdir(tmp_path / "x.jsonl.index")) == [
        "about.json", "rows.arrow", "seconds.npy", "tasks.npy",
    ]  # fmt: skip
    monkeypatch.setattr(clip_index, "iterate_clips", lambda path: pytest.fail("read again"))
    assert len(load_annotation(path)) == 10


def test_a_changed_annotation_is_indexed_anew(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.jsonl", make_rows(10))
    load_annotation(path)
    write_entries(path, make_rows(11))
    assert len(load_annotation(path)) == 11
    write_entries(path, [{**row, "text": "TEXT"} for row in make_rows(11)])
    os.utime(path, ns=(1, 1))
    assert load_annotation(path)[0].texts == ("TEXT",)


def test_a_half_made_or_broken_index_is_replaced(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.jsonl", make_rows(10))
    folder = tmp_path / "x.jsonl.index"
    folder.mkdir()
    (folder / "rows.arrow").write_text("half")
    assert len(load_annotation(path)) == 10
    (folder / "about.json").write_text("[]")
    assert len(load_annotation(path)) == 10


def test_where_the_annotation_cannot_be_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir()
    path = write_entries(folder / "x.jsonl", make_rows(10))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda place, mode: Path(place) != folder and access(place, mode)
    )
    assert len(load_annotation(path)) == 10
    assert os.listdir(folder) == ["x.jsonl"]
    (folder,) = (tmp_path / "cache/audiolm/indexes").iterdir()
    assert (folder / "about.json").is_file()
    assert load_annotation(path)[3].path == "3.wav"


def test_malformed_annotations_leave_no_index(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.jsonl", [*make_rows(10), {"path": 5}])
    with pytest.raises(UserError, match=r'x.jsonl: annotation\[10\]: "path" is 5'):
        load_annotation(path)
    assert os.listdir(tmp_path) == ["x.jsonl"]
    with pytest.raises(UserError, match="does not exist"):
        load_annotation(tmp_path / "none.jsonl")


def test_required_fields(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.jsonl", [*make_rows(5), {"path": "a.wav"}])
    with pytest.raises(UserError, match=r'annotation\[5\]: "text" is missing'):
        load_annotation(path, require_text=True)
    with pytest.raises(UserError, match=r'annotation\[0\]: "testset_id" is missing'):
        load_annotation(path, require_testset_id=True)
    whole = write_entries(tmp_path / "y.jsonl", make_rows(5))
    assert len(load_annotation(whole, require_text=True)) == 5


def test_small_annotations_stay_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_entries(tmp_path / "x.jsonl.gz", make_rows(100))
    size = path.stat().st_size
    monkeypatch.setattr(annotations, "INDEXED_FROM_BYTES", size * annotations.GZIP_RATIO + 1)
    assert isinstance(load_annotation(path), list)
    monkeypatch.setattr(annotations, "INDEXED_FROM_BYTES", size * annotations.GZIP_RATIO)
    assert isinstance(load_annotation(path), ClipIndex)


def test_an_index_is_small_to_send(tmp_path: Path) -> None:
    clips = open_index(write_entries(tmp_path / "x.jsonl", make_rows(1000)))
    assert clips[500].path == "500.wav"
    sent = pickle.dumps(clips)
    assert len(sent) < 1000
    assert pickle.loads(sent)[500] == clips[500]


def read_paths(clips: Any, queue: Any) -> None:
    queue.put([clips[index].path for index in (7, 1, 9)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_side_by_side(method: str, tmp_path: Path) -> None:
    clips = open_index(write_entries(tmp_path / "x.jsonl", make_rows(10)))
    assert clips[2] == Clip(2, "2.wav", ("text 2",), seconds=2.5)  # the file is open now
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_paths, args=(clips, queue))
    process.start()
    assert queue.get(timeout=60) == ["7.wav", "1.wav", "9.wav"]
    process.join()
    assert [clip.path for clip in clips] == [f"{i}.wav" for i in range(10)]


def open_and_count(path: Path, queue: Any) -> None:
    queue.put(len(open_index(path)))


def test_several_processes_ask_at_once(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.jsonl", make_rows(300))
    context: Any = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=open_and_count, args=(path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [300] * 4
    for process in processes:
        process.join()
    about = json.loads((tmp_path / "x.jsonl.index/about.json").read_text())
    assert about["num_clips"] == 300
