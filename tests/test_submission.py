"""Submission files: their form, their names, and that they appear whole or not at all."""

import csv
import os
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import submission_validator
from audiolm.errors import UserError
from audiolm.evaluation.submission import MODE_FOLDERS, submission_path, write_submission

GOLDEN_DIR = Path(__file__).parent / "data" / "golden" / "dev" / "goldens"
NOW = datetime(2026, 1, 31, 14, 5, 9)


def read_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


@pytest.mark.parametrize("name", ["e2e_lora_submission.csv", "e2e_vblora_submission.csv"])
def test_writes_the_bytes_of_the_reference(name, tmp_path):
    ids, texts = zip(*read_rows(GOLDEN_DIR / name)[1:], strict=True)
    write_submission(tmp_path / name, ids, texts)
    assert (tmp_path / name).read_bytes() == (GOLDEN_DIR / name).read_bytes()


def test_quotes_what_needs_it_and_keeps_one_line_per_row(tmp_path):
    path = tmp_path / "a" / "b" / "s.csv"
    texts = [
        'say "hi", then',
        "two\nlines\r\nand\rmore\u2028here",
        "",
        "null",
        "한국어 é",
        "\ud800x\0y",
    ]
    ids = [f"test{i:04d}" for i in range(len(texts))]
    write_submission(path, ids, texts)
    assert path.read_bytes().decode("utf-8").splitlines() == [
        "testset_id,text",
        'test0000,"say ""hi"", then"',
        "test0001,two lines and more here",
        "test0002,",
        "test0003,null",
        "test0004,한국어 é",
        "test0005,\ufffdx y",
    ]


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=10))
def test_whatever_is_written_reads_back_and_is_valid(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("submission") / "s.csv"
    ids = [f"test{i:04d}" for i in range(len(texts))]
    write_submission(path, ids, texts)
    rows = read_rows(path)
    assert [row[0] for row in rows] == ["testset_id", *ids]
    for text, (_, written) in zip(texts, rows[1:], strict=True):
        assert written.split() == text.replace("\0", " ").replace("\x85", " ").split()
        assert len(written.splitlines()) <= 1
    problems, num_rows = submission_validator.find_problems(path)
    assert num_rows == len(texts)
    assert [problem for problem in problems if not problem.is_warning] == []


def test_a_crash_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "s.csv"
    write_submission(path, ["test0000"], ["old"])

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_submission(path, ["test0000"], ["new"])
    assert os.listdir(tmp_path) == ["s.csv"]
    assert read_rows(path)[1] == ["test0000", "old"]


def test_different_numbers_of_ids_and_texts_write_nothing(tmp_path):
    with pytest.raises(UserError, match="2 ids for 1 texts"):
        write_submission(tmp_path / "s.csv", ["test0000", "test0001"], ["a"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", MODE_FOLDERS)
def test_names_are_dated_and_never_taken(mode, tmp_path):
    folder = tmp_path / ("submission_results" if mode.startswith("submission") else "valid_results")
    paths = []
    for _ in range(3):
        path = submission_path(mode, tmp_path, NOW)
        assert not path.exists()
        write_submission(path, ["test0000"], [str(len(paths))])
        paths.append(path)
    stem = f"2026-01-31_14-05-09_{mode}"
    assert paths == [folder / f"{stem}{suffix}.csv" for suffix in ("", "_2", "_3")]
    assert [read_rows(path)[1][1] for path in paths] == ["0", "1", "2"]


def test_unknown_mode_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="'asr': choose one of submission_asr"):
        submission_path("asr", tmp_path)
