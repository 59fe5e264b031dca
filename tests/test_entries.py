"""Annotation files in every format: streamed, told apart from broken ones, written whole."""

import errno
import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiolm.data import json_stream
from audiolm.data.annotations import load_annotation
from audiolm.data.entries import iterate_entries, save_entries
from audiolm.data.json_stream import iterate_json_list
from audiolm.data.outputs import whole_file, whole_folder
from audiolm.errors import UserError
from tests.corpora import write_entries

PACKAGE_DIR = Path(__file__).resolve().parent.parent / "audiolm-trainer"
NAMES = ("x.json", "x.jsonl", "x.jsonl.gz")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
LIKELY_KEYS = st.sampled_from(["path", "text", "task", "Q", "offset", "duration", "expand_wav"])
ROWS = st.dictionaries(LIKELY_KEYS | st.text(max_size=3), JSON_VALUES, max_size=5)
IN_ONE_FOLDER = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # files are written anew
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [3, 1 << 20])
def test_every_format_and_window(
    name: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "READ_CHARACTERS", window)
    rows = [{"path": f"{i}.wav", "text": ["é한글 \\ \"'", "}{][,"], "n": i * 1.5} for i in range(7)]
    assert list(iterate_entries(write_entries(tmp_path / name, rows))) == rows
    saved = tmp_path / f"saved.{name}"
    assert save_entries(saved, rows) == 7
    assert list(iterate_entries(saved)) == rows
    assert save_entries(tmp_path / f"again.{name}", iter(rows)) == 7
    assert (tmp_path / f"again.{name}").read_bytes() == saved.read_bytes()
    if name == "x.json":
        assert json.loads(saved.read_text(encoding="utf-8")) == {"annotation": rows}


@IN_ONE_FOLDER
@given(rows=st.lists(JSON_VALUES, min_size=1, max_size=6), window=st.integers(1, 40))
def test_stream_equals_json_loads(rows: list[Any], window: int, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = {"before": {"annotation": 1}, "annotation": rows, "after": [1]}
    path.write_text(json.dumps(content, indent=window % 4), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "READ_CHARACTERS", window)
        assert list(iterate_json_list(path, "annotation", "annotation")) == rows


@IN_ONE_FOLDER
@given(rows=st.lists(ROWS, min_size=1, max_size=5), cut=st.integers(0, 300), junk=st.binary())
@pytest.mark.parametrize("name", NAMES)
def test_reader_takes_any_file_or_says_why_not(
    rows: list[Any], cut: int, junk: bytes, name: str, tmp_path: Path
) -> None:
    """Fuzz: whole files of odd rows, files cut anywhere, junk within. Clips or one UserError."""
    content = write_entries(tmp_path / name, rows).read_bytes()
    for variant in (content, content[:cut], content[:cut] + junk + content[cut:], junk):
        (tmp_path / name).write_bytes(variant)
        try:
            clips = load_annotation(tmp_path / name)
        except UserError:
            continue
        assert clips
        assert all(clip.path for clip in clips)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"annotation": [\n {"path": "a"},\n {"path": "b",}\n]}', "line 3, column"),
        ('{"annotation": [\n {"path": "a"}\n {"path": "b"}\n]}', "line 3, column 2"),
        ('{"annotation": [\n {"path": "a"},\n]}', "Illegal trailing comma.* line 3, column 1"),
        ('{"annotation": [{"path": "a"}', "line 1, column 30"),
        ('{"annotation": [{"path": "a"}]} {}', "Extra data at line 1, column 33"),
        ('{"annotation" [{"path": "a"}]}', "':' delimiter at line 1, column 15"),
        ("{annotation: []}", "double quotes at line 1, column 2"),
        ("", "line 1, column 1"),
        ('{"path": "a"}\n{"path": "b"}\n', "line 2, column 1; .*name it .jsonl"),
    ],
)
@pytest.mark.parametrize("window", [2, 1 << 20])
def test_bad_json_is_told_with_its_place(
    text: str, place: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "READ_CHARACTERS", window)
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"x\.json is not valid JSON: .*{place}") as caught:
        list(iterate_entries(path))
    assert "\n" not in str(caught.value)


def test_bad_lines_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"path": "a"}\n\n{"path": }\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"JSON lines: Expecting value at line 3, column 10"):
        list(iterate_entries(path))
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(UserError, match="recursion.* at line 1"):
        list(iterate_entries(path))
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(UserError, match="is an empty list"):
        list(iterate_entries(path))
    path.write_bytes(b'{"path": "\xff"}')
    with pytest.raises(UserError, match="is not UTF-8"):
        list(iterate_entries(path))


def test_cut_or_false_gzip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    content = gzip.compress(b'{"path": "a.wav"}\n' * 1000)
    for broken in (content[:-20], content[:10], b"plain text"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="is cut short or is no gzip file"):
            list(iterate_entries(path))


def test_an_item_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "READ_CHARACTERS", 100)
    monkeypatch.setattr(json_stream, "MAX_ITEM_CHARACTERS", 1000)
    path = tmp_path / "x.json"
    path.write_text('{"annotation": [{"path": "' + "a" * 100_000, encoding="utf-8")
    reader = iterate_entries(path)
    with pytest.raises(UserError, match="Unterminated string .* line 1, column 26"):
        next(reader)


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "text": "\ud800 é"}]
    save_entries(tmp_path / "x.json", rows)
    assert list(iterate_entries(tmp_path / "x.json")) == rows


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def rows() -> Any:
        yield {"path": "a.wav"}
        raise UserError("the source is broken")

    with pytest.raises(UserError, match="the source is broken"):
        save_entries(path, rows(), overwrite=True)
    with pytest.raises(UserError, match="no entry is left"):
        save_entries(path, [], overwrite=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails half way."""
    program = (
        "import resource, sys; from audiolm.data.entries import save_entries\n"
        "from audiolm.errors import run_command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "rows = ({'path': f'{i}.wav'} for i in range(10_000))\n"
        "run_command(lambda arguments: save_entries(arguments[0], rows))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x.jsonl")]
    finished = subprocess.run(command, cwd=PACKAGE_DIR, capture_output=True, text=True, check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
    assert finished.returncode == 2
    reason = os.strerror(errno.EFBIG)
    assert finished.stderr.splitlines() == [
        f"error: cannot write {tmp_path / 'x.jsonl'}: {reason}; nothing is left of it"
    ]
    assert not list(tmp_path.iterdir())


def test_folders_appear_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("1")
        assert not folder.exists()
    assert (folder / "a").read_text() == "1"
    with pytest.raises(UserError, match="out exists"), whole_folder(folder):
        pass

    def fail_half_way() -> None:
        with whole_folder(folder, overwrite=True) as temporary:
            (temporary / "b").write_text("2")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert os.listdir(folder) == ["a"]
    with whole_folder(folder, overwrite=True) as temporary:
        (temporary / "b").write_text("2")
    assert os.listdir(folder) == ["b"]
    assert os.listdir(tmp_path) == ["out"]


def test_outputs_in_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a folder that can be written to"):
        save_entries(tmp_path / "file" / "x.json", [{"path": "a"}])
    with whole_file(tmp_path / "new" / "x") as temporary:
        temporary.write_text("1")
    assert (tmp_path / "new" / "x").read_text() == "1"
