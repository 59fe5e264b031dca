"""Annotation files: what is read, what is refused, and how the message helps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from audiolm.audio.loading import WHOLE_FILE, Span
from audiolm.data.annotations import Clip, check_tasks, load_annotation, resolve_audio_path
from audiolm.errors import UserError
from audiolm.prompts import PromptBook

GOLDEN = Path(__file__).resolve().parent / "data" / "golden" / "dev"


def write_annotation(folder: Path, content: Any) -> Path:
    path = folder / "annotation.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_rows(folder: Path, *rows: Any) -> Path:
    return write_annotation(folder, {"annotation": list(rows)})


def test_golden_annotation() -> None:
    clips = load_annotation(
        GOLDEN / "annotation_mixed.json", require_text=True, require_testset_id=True
    )
    assert [clip.index for clip in clips] == [0, 1, 2]
    assert clips[1] == Clip(
        index=1,
        path="b.wav",
        texts=("she had your dark suit in greasy wash water all year",),
        task="QA",
        question="How many people talk in the clip?",
        testset_id="test0001",
    )


def test_defaults_lists_and_unknown_keys(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path,
        {"path": "/a.wav"},
        {"path": "b.wav", "text": ["one", "two"], "task": "audiocaption_v2", "speaker": 7},
        {"path": "c.wav", "text": "", "Q": None, "expand_wav": ["d.wav"], "duration": 3},
    )
    assert load_annotation(path) == [
        Clip(0, "/a.wav", (), "asr", "", None, (), None),
        Clip(1, "b.wav", ("one", "two"), "audiocaption_v2", "", None, (), None),
        Clip(2, "c.wav", ("",), "asr", "", None, ("d.wav",), 3.0),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav", "must be an object"),
        ({"text": "x"}, '"path" is missing; give the audio'),
        ({"path": ""}, "\"path\" is ''"),
        ({"path": 5}, '"path" is 5'),
        ({"path": "a", "text": 5}, '"text" is 5; give a string or'),
        ({"path": "a", "text": []}, r'"text" is \[\]'),
        ({"path": "a", "text": ["x", None]}, '"text" is'),
        ({"path": "a", "task": 1}, '"task" is 1; give a string'),
        ({"path": "a", "Q": ["?"]}, '"Q" is'),
        ({"path": "a", "testset_id": 12}, '"testset_id" is 12'),
        ({"path": "a", "expand_wav": "b.wav"}, '"expand_wav" is'),
        ({"path": "a", "offset": "1"}, "\"offset\" is '1'; give the clip's start"),
        ({"path": "a", "offset": -1}, '"offset" is -1'),
        ({"path": "a", "offset": True}, '"offset" is True'),
        ({"path": "a", "offset": float("nan")}, '"offset" is nan'),
        ({"path": "a", "offset": 1, "duration": 0}, '"duration" is 0; a clip with an "offset"'),
        ({"path": "a", "offset": 1, "duration": "2"}, "\"duration\" is '2'"),
    ],
)
def test_wrong_entries_are_named_with_the_fix(tmp_path: Path, row: Any, message: str) -> None:
    path = write_rows(tmp_path, {"path": "ok.wav", "text": "fine"}, row)
    with pytest.raises(UserError, match=rf"annotation\.json: annotation\[1\]: {message}") as caught:
        load_annotation(path)
    assert "\n" not in str(caught.value)


def test_many_wrong_entries_make_one_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *[{"text": "no path"}] * 10)
    with pytest.raises(UserError, match=r"annotation\[2\].*\(and 7 more wrong entries\)$"):
        load_annotation(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"path": "a.wav"}], "is a bare list; wrap it"),
        ({"annotations": []}, 'has no "annotation" list; is "annotations" meant'),
        ({}, 'has no "annotation" list'),
        ("text", 'has no "annotation" list'),
        ({"annotation": {}}, "must be a list"),
        ({"annotation": []}, "is an empty list.*; add entries like .* or name another file"),
    ],
)
def test_wrong_structure_is_explained(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_annotation(write_annotation(tmp_path, content))


def test_unreadable_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.json does not exist"):
        load_annotation(tmp_path / "missing.json")
    path = tmp_path / "broken.json"
    path.write_text('{"annotation": [\n {"path": "a.wav",}\n]}', encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"broken\.json is not valid JSON: .* line 2, column \d+"
        r", in annotation\[0\]; correct it there$",
    ):
        load_annotation(path)
    path.write_text('{"annotation": [{"path": "a.wav"}, {"path": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"in annotation\[1\]; the file ends there: .*anew$"):
        load_annotation(path)


def test_a_task_without_a_prompt_is_told_with_its_row(tmp_path: Path) -> None:
    """In training, where several annotations come together; `test_evaluate` has evaluation's."""
    prompts = PromptBook({"asr": ["<SpeechHere>"]}, "prompts.json")
    rows = [{"path": "a.wav"}, {"path": "b.wav", "task": "asrr"}, {"path": "c.wav", "task": "asrr"}]
    path = write_rows(tmp_path, *rows)
    clips = load_annotation(path)
    place = r"annotation\[1\] \(b\.wav\) \(and 1 more\): no prompt for task 'asrr' in prompts"
    cure = r".* mean 'asr'\? .*; correct \"task\" there, or add the task to the prompts$"
    with pytest.raises(UserError, match=rf"^{path}: {place}{cure}"):
        check_tasks(path, clips, prompts)
    with pytest.raises(UserError, match=rf"^x\.json: {place}{cure}"):
        check_tasks(path, [dataclasses.replace(clip, source="x.json") for clip in clips], prompts)
    check_tasks(path, clips[:1], prompts)


def test_offset_makes_a_span_and_a_name(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path,
        {"path": "a.wav", "duration": 2},
        {"path": "a.wav", "offset": 1, "duration": 2.5},
        {"path": "a.wav", "offset": 0},
        {"path": "a.wav", "offset": None, "duration": 10**400},
    )
    clips = load_annotation(path)
    assert [clip.span for clip in clips] == [
        WHOLE_FILE, Span(1.0, 2.5), Span(0.0, None), WHOLE_FILE,
    ]  # fmt: skip
    assert [clip.name for clip in clips] == ["a.wav", "a.wav@1-3.5", "a.wav@0-", "a.wav"]
    assert [clip.seconds for clip in clips] == [2.0, 2.5, None, None]


def test_required_fields(tmp_path: Path) -> None:
    path = write_rows(tmp_path, {"path": "a.wav"}, {"path": "b.wav", "text": "x"})
    assert len(load_annotation(path)) == 2
    with pytest.raises(UserError, match=r'annotation\[0\]: "text" is missing'):
        load_annotation(path, require_text=True)
    with pytest.raises(UserError, match=r'annotation\[1\]: "testset_id" is missing'):
        load_annotation(path, require_testset_id=True)


def test_repeated_testset_ids_are_refused_where_they_matter(tmp_path: Path) -> None:
    row = {"path": "a.wav", "text": "x", "testset_id": "test0000"}
    path = write_rows(tmp_path, row, {**row, "testset_id": "test0001"}, row)
    assert len(load_annotation(path)) == 3
    with pytest.raises(UserError, match=r"annotation\[2\].*'test0000' is used before.*\[0\]"):
        load_annotation(path, require_testset_id=True)


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("audio", "a.wav", "audio/a.wav"),
        ("audio", "/a.wav", "audio/a.wav"),
        ("audio/", "//x/a.wav", "audio/x/a.wav"),
        ("/audio", "/x/a.wav", "/audio/x/a.wav"),
        ("../audio", "x/../a.wav", "../audio/a.wav"),
        (".", "a.wav", "a.wav"),
        ("", "/x/a.wav", "/x/a.wav"),
        ("", "../a.wav", "../a.wav"),
    ],
)
def test_paths_are_joined_to_the_prefix(prefix: str, path: str, expected: str) -> None:
    assert resolve_audio_path(prefix, path) == Path(expected)


@pytest.mark.parametrize("path", ["../a.wav", "/../a.wav", "x/../../a.wav", ".."])
def test_paths_do_not_leave_the_prefix(path: str) -> None:
    with pytest.raises(UserError, match="leads out of datasets.prefix 'audio'"):
        resolve_audio_path("audio", path)
