"""split, merge, subset, rewrite-paths: nothing is lost or repeated, what was dealt stays."""

import contextlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from audiolm.data.__main__ import main
from audiolm.data.annotations import load_annotation
from audiolm.data.entries import iterate_entries
from audiolm.data.reshaping import merge_annotations, replace_start
from audiolm.data.splitting import split_annotation
from audiolm.errors import UserError
from tests.corpora import write_audio, write_entries

PROPERTIES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # files are written anew
)
ROW = st.fixed_dictionaries(
    {
        "path": st.sampled_from([f"corpus{i}/{j}.wav" for i in range(3) for j in range(9)]),
        "text": st.sampled_from(["one", "two", ["one", "two"], ""]),
        "task": st.sampled_from(["asr", "QA", "audiocaption_v2"]),
    },
    optional={
        "Q": st.sampled_from(["", "what?"]),
        "offset": st.sampled_from([0, 1.5]),
        "duration": st.sampled_from([1, 2.5]),
        "note": st.text(max_size=3),
    },
)
ROWS = st.lists(ROW, min_size=1, max_size=30)


def make_rows(num_rows: int, start: int = 0) -> list[dict[str, Any]]:
    tasks = ("asr", "asr", "audiocaption_v2")
    return [
        {"path": f"c{i % 4}/{i}.wav", "text": f"text {i}", "task": tasks[i % 3], "speaker": i % 50}
        for i in range(start, start + num_rows)
    ]


def read_parts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {file.name.split(".")[0]: list(iterate_entries(file)) for file in folder.iterdir()}


def drop_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key != "testset_id"} for row in rows]


def freeze(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True) for row in drop_ids(rows))


@PROPERTIES
@given(rows=ROWS, seed=st.integers(0, 5))
def test_split_loses_nothing_and_repeats_nothing(
    rows: list[dict[str, Any]], seed: int, tmp_path: Path
) -> None:
    rows = [{**row, "place": place} for place, row in enumerate(rows)]
    path = write_entries(tmp_path / "x.jsonl", rows)
    with contextlib.suppress(UserError):  # of a few files, none may fall into a part
        shutil.rmtree(tmp_path / "parts", ignore_errors=True)
        split_annotation(path, tmp_path / "parts", valid=0.3, test=0.3, seed=seed)
    assume((tmp_path / "parts").exists())
    parts = read_parts(tmp_path / "parts")
    assert freeze([row for part in parts.values() for row in part]) == freeze(rows)
    files = [{row["path"] for row in part} for part in parts.values()]
    assert sum(map(len, files)) == len(set().union(*files))
    for part in parts.values():
        places = [row["place"] for row in part]
        assert places == sorted(places)


def test_split_is_stratified_and_numbers_the_test_part(tmp_path: Path) -> None:
    rows = make_rows(3000)
    path = write_entries(tmp_path / "x.json", rows)
    split_annotation(path, tmp_path / "parts", valid=0.1, test=0.2, seed=1)
    parts = read_parts(tmp_path / "parts")
    for part, fraction in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        for task, share in (("asr", 2000), ("audiocaption_v2", 1000)):
            count = sum(row["task"] == task for row in parts[part])
            # Four standard deviations of a draw of `share` with this chance.
            slack = 4 * (fraction * (1 - fraction) / share) ** 0.5
            assert count / share == pytest.approx(fraction, abs=slack)
    ids = [row["testset_id"] for row in parts["test"]]
    assert ids == [f"test{number:04d}" for number in range(len(ids))]
    load_annotation(tmp_path / "parts/test.json", require_text=True, require_testset_id=True)
    assert not any("testset_id" in row for row in parts["train"] + parts["valid"])


def test_split_is_stable_when_rows_are_added(tmp_path: Path) -> None:
    old, new = make_rows(400), make_rows(300, start=400)
    mixed = [row for pair in zip(old, new, strict=False) for row in pair] + old[300:]
    before = write_entries(tmp_path / "old.json", old)
    after = write_entries(tmp_path / "new.json", mixed[::-1])
    split_annotation(before, tmp_path / "a", valid=0.1, test=0.1, seed=0)
    split_annotation(after, tmp_path / "b", valid=0.1, test=0.1, seed=0)
    first, second = read_parts(tmp_path / "a"), read_parts(tmp_path / "b")
    for part, rows in first.items():
        assert not freeze(rows) - freeze(second[part])
    split_annotation(before, tmp_path / "c", valid=0.1, test=0.1, seed=1)
    assert freeze(read_parts(tmp_path / "c")["test"]) != freeze(first["test"])
    split_annotation(before, tmp_path / "d", valid=0.3, test=0.1, seed=0)
    assert freeze(read_parts(tmp_path / "d")["test"]) == freeze(first["test"])


def test_split_keeps_groups_together(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", make_rows(500))
    arguments = ["split", str(path), "-o", str(tmp_path / "p"), "--group", "speaker"]
    assert main([*arguments, "--valid", "0", "--test", "0.2", "--format", "jsonl.gz"]) == 0
    parts = read_parts(tmp_path / "p")
    assert set(parts) == {"train", "test"}
    speakers = [{row["speaker"] for row in part} for part in parts.values()]
    assert not speakers[0] & speakers[1]
    with pytest.raises(UserError, match="has no 'accent'; choose another --group"):
        main([*arguments[:-1], "accent", "--overwrite"])


def test_split_prints_what_is_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*make_rows(200), {"path": "lonely.wav", "text": "x", "task": "QA"}]
    path = write_entries(tmp_path / "x.json", rows)
    assert main(["split", str(path), "-o", str(tmp_path / "p")]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'p' / 'train.json'}: " in printed
    assert "none in " in printed
    with pytest.raises(UserError, match="p exists; name another output"):
        main(["split", str(path), "-o", str(tmp_path / "p")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--valid", "0.6", "--test", "0.4"], "leave some for train"),
        (["--valid", "-0.1"], "leave some for train"),
        (["--test", "0.0001"], "no entry falls into test; use a larger fraction"),
    ],
)
def test_wrong_splits(options: list[str], message: str, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", make_rows(40))
    with pytest.raises(UserError, match=message):
        main(["split", str(path), "-o", str(tmp_path / "p"), *options])
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def simplify(row: dict[str, Any]) -> str:
    """What makes entries equal, written down in another way than the product's."""
    text = [row["text"]] if isinstance(row["text"], str) else row["text"]
    span = [float(row["offset"]), float(row.get("duration", 0))] if "offset" in row else None
    return json.dumps([row["path"], span, row["task"], row.get("Q", ""), text])


@PROPERTIES
@given(files=st.lists(ROWS, min_size=1, max_size=3))
def test_merge_loses_nothing_and_repeats_nothing(
    files: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    paths = [write_entries(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(files)]
    report = merge_annotations(paths, tmp_path / "out.json", overwrite=True)
    merged = list(iterate_entries(tmp_path / "out.json"))
    all_rows = [row for rows in files for row in rows]
    first = {simplify(row): row for row in reversed(all_rows)}
    assert Counter(map(simplify, merged)) == Counter(first.keys())  # each once, none lost
    assert all(first[simplify(row)] == row for row in merged)  # the first one, with all its keys
    places = [all_rows.index(row) for row in merged]
    assert places == sorted(places)
    assert report.num_read == len(all_rows)
    assert report.num_written == len(merged) == report.num_read - report.num_repeated


def test_merge_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "testset_id": f"test{i:04d}"} for i, row in enumerate(make_rows(5))]
    other = {"path": "c0/0.wav", "text": "other words", "task": "asr", "testset_id": "test0007"}
    a = write_entries(tmp_path / "a.json", rows)
    b = write_entries(tmp_path / "b.jsonl.gz", [{**rows[1], "path": "/c1/1.wav"}, other])
    out = tmp_path / "out.jsonl"
    assert main(["merge", str(a), str(b), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "6 of 7 entries" in printed
    assert "left out: 1 that occur before" in printed
    assert "kept: 1 with other texts of the same audio" in printed
    c = write_entries(tmp_path / "c.json", [{**other, "testset_id": "test0001"}])
    with pytest.raises(UserError, match="'test0001' is used before; --renumber gives new ones"):
        main(["merge", str(a), str(c), "-o", str(out), "--overwrite"])
    assert main(["merge", str(a), str(c), "-o", str(out), "--overwrite", "--renumber"]) == 0
    load_annotation(out, require_testset_id=True)
    with pytest.raises(UserError, match="a.json is the input itself"):
        main(["merge", str(a), str(b), "-o", str(a), "--overwrite"])


def test_subset(tmp_path: Path) -> None:
    rows = make_rows(100)
    for index, row in enumerate(rows):
        row["duration"] = index / 10
    path = write_entries(tmp_path / "x.json", rows)

    def take(*options: str) -> list[dict[str, Any]]:
        main(["subset", str(path), "-o", str(tmp_path / "y.json"), "--overwrite", *options])
        return list(iterate_entries(tmp_path / "y.json"))

    assert take("--task", "asr") == [row for row in rows if row["task"] == "asr"]
    assert take("--where", "speaker=3", "speaker=4", "task=asr") == [
        row for row in rows if row["speaker"] in (3, 4) and row["task"] == "asr"
    ]
    assert take("--min-seconds", "2", "--max-seconds", "3") == rows[20:31]
    few, more = take("--num", "10"), take("--num", "30")
    assert (len(few), len(more)) == (10, 30)
    assert all(row in more for row in few)
    assert [rows.index(row) for row in more] == sorted(rows.index(row) for row in more)
    assert take("--num", "10", "--seed", "1") != few
    assert take("--num", "1000") == rows
    with pytest.raises(UserError, match="no entry is left"):
        take("--task", "QA")
    with pytest.raises(UserError, match="--where: 'x' is not KEY=VALUE"):
        take("--where", "x")


def test_rewrite_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "new/data/a.wav")
    rows = [
        {"path": "/old/data/a.wav", "text": "x"},
        {"path": "old/data/b.wav", "text": "y", "expand_wav": ["old/data/a.wav"]},
        {"path": "older/a.wav", "text": "z"},
    ]
    path = write_entries(tmp_path / "x.json", rows)
    arguments = ["rewrite-paths", str(path), "-o", str(tmp_path / "y.json")]
    assert main([*arguments, "--from", "/old/", "--to", "new"]) == 0
    assert "1 have paths that start otherwise and stay" in capsys.readouterr().out
    changed = list(iterate_entries(tmp_path / "y.json"))
    assert [row["path"] for row in changed] == ["new/data/a.wav", "new/data/b.wav", "older/a.wav"]
    assert changed[1]["expand_wav"] == ["new/data/a.wav"]
    named = [*arguments, "--from", "old", "--to", "new", "--prefix", str(tmp_path), "--overwrite"]
    with pytest.raises(UserError, match=r"2 of 3 entries have no file; first: .*b.wav"):
        main(named)
    assert main([*named, "--drop-missing"]) == 0
    assert [row["path"] for row in iterate_entries(tmp_path / "y.json")] == ["new/data/a.wav"]
    with pytest.raises(UserError, match="no path of .* starts with 'ol'; the first is '/old/"):
        main([*arguments, "--from", "ol", "--overwrite"])


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("data/x.wav", "data", "other", "other/x.wav"),
        ("database/x.wav", "data", "other", "database/x.wav"),
        ("/data/x.wav", "data/", "", "x.wav"),
        ("x.wav", "", "data/", "data/x.wav"),
        ("/x.wav", "", "/data", "/data/x.wav"),
        ("a/b/x.wav", "/a/b", "c", "c/x.wav"),
    ],
)
def test_starts_are_whole_folders(path: str, old: str, new: str, expected: str) -> None:
    assert replace_start(path, old, new) == expected


@pytest.mark.parametrize("verb", ["split", "merge", "subset", "rewrite-paths"])
def test_malformed_entries_are_named(verb: str, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", [{"path": "a.wav"}, {"path": 5}])
    with pytest.raises(UserError, match=r'x.json: annotation\[1\]: "path" is 5'):
        main([verb, str(path), "-o", str(tmp_path / "y.json")])
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
