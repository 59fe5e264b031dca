"""`check`: every kind of problem is found, named and dropped; an interrupted check goes on."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm.data.__main__ import main
from audiolm.data.checking import checking
from audiolm.data.checking.checking import check_annotation, find_repeats
from audiolm.data.checking.problems import SEVERITIES
from audiolm.data.checking.texts import find_text_problems
from audiolm.data.entries import iterate_entries
from audiolm.errors import UserError
from tests.corpora import copy_audio, make_tone, write_audio, write_entries

PACKAGE_DIR = Path(__file__).resolve().parent.parent / "audiolm-trainer"
GOOD = {"path": "good.wav", "text": "all is well", "task": "asr"}


def write_wave(path: Path, samples: np.ndarray, rate_hz: int = 16_000, **options: Any) -> None:
    soundfile.write(path, samples, rate_hz, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a file for each kind of trouble."""
    folder = tmp_path / "audio"
    write_audio(folder / "good.wav", 2.0, seed=1)
    write_audio(folder / "long.wav", 31.0, seed=2)
    write_audio(folder / "short.wav", 0.5, seed=3)
    write_audio(folder / "low.wav", 2.0, seed=4, rate_hz=8_000)
    copy_audio(folder / "good.wav", folder / "copy.flac")
    write_wave(folder / "silent.wav", np.zeros(20_000, np.float32))
    write_wave(folder / "none.wav", np.zeros(0, np.float32))
    write_wave(folder / "stereo.wav", np.stack([make_tone(2, seed=5)] * 2, 1))
    write_wave(folder / "loud.wav", np.clip(make_tone(2, seed=6) * 10, -1, 1))
    write_wave(folder / "nan.wav", np.full(20_000, np.nan, np.float32), subtype="FLOAT")
    (folder / "text.wav").write_text("this is no audio")
    return folder


ROWS_BY_KIND: dict[str, list[Any]] = {
    "entry": [{"text": "no path"}],
    "prefix": [{**GOOD, "path": "../good.wav", "Q": "1"}],
    "missing": [{**GOOD, "path": "gone.wav"}],
    "unreadable": [{**GOOD, "path": "text.wav"}],
    "empty": [{**GOOD, "path": "none.wav"}],
    "non_finite": [{**GOOD, "path": "nan.wav"}],
    "outside": [{**GOOD, "offset": 5, "duration": 1}],
    "silent": [{**GOOD, "path": "silent.wav"}],
    "no_text": [{"path": "good.wav", "Q": "2"}],
    "empty_text": [{**GOOD, "text": " ", "Q": "3"}],
    "special_token": [{**GOOD, "text": "yes <|eot_id|>", "Q": "4"}],
    "duplicate_id": [{**GOOD}, {**GOOD, "path": "/./good.wav", "extra": 1}],
    "duplicate_audio": [{**GOOD, "Q": "5"}, {**GOOD, "path": "copy.flac", "Q": "5"}],
    "clipped": [{**GOOD, "path": "loud.wav"}],
    "short": [{**GOOD, "path": "short.wav"}],
    "long": [{**GOOD, "path": "long.wav"}],
    "rate": [{**GOOD, "path": "low.wav"}],
    "channels": [{**GOOD, "path": "stereo.wav"}],
    "duration": [{**GOOD, "duration": 9.0, "Q": "6"}],
    "text_form": [{**GOOD, "text": "ALL IS WELL", "Q": "7"}],
}


@pytest.mark.parametrize("kind", list(SEVERITIES))
def test_each_kind_is_found_alone(kind: str, corpus: Path, tmp_path: Path) -> None:
    rows = ROWS_BY_KIND[kind]
    path = write_entries(tmp_path / "x.json", [{**GOOD, "Q": "first"}, *rows])
    report = check_annotation(path, prefix=str(corpus))
    found = {
        index: [problem.kind for problem in problems] for index, problems in report.problems.items()
    }
    assert found == {len(rows): [kind]}
    assert report.num_clips == len(rows) + 1
    assert report.names[len(rows)] == rows[-1].get("path", "")


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_command_reports_drops_and_lists(
    num_processes: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for rows in ROWS_BY_KIND.values() for row in rows]
    path = write_entries(tmp_path / "x.jsonl", rows)
    before = path.read_bytes()
    out, report_path = tmp_path / "clean.json", tmp_path / "report.json"
    options = ["--prefix", str(corpus), "--num-processes", num_processes]
    options += ["--json", str(report_path), "--fix", "drop", "-o", str(out)]
    assert main(["check", str(path), *options]) == 1
    printed = capsys.readouterr().out
    errors = {kind for kind, (severity, _) in SEVERITIES.items() if severity == "error"}
    for kind in SEVERITIES:
        assert f"  {kind} " in printed
    assert "annotation[2] (gone.wav): " in printed
    report = json.loads(report_path.read_text())
    assert report["num_clips"] == len(rows)
    assert set(report["counts"]) == set(SEVERITIES)
    assert report["problems"][0]["problems"][0]["kind"] == "entry"
    assert report["rates_hz"]["8000"] == 1

    kept = list(iterate_entries(out))
    dropped = list(iterate_entries(tmp_path / "clean.dropped.jsonl"))
    assert path.read_bytes() == before
    assert len(kept) + len(dropped) == len(rows)
    assert {reason.split(":")[0] for row in dropped for reason in row["reasons"]} == errors
    assert [row["entry"] for row in dropped] == [rows[row["index"]] for row in dropped]
    assert not list(tmp_path.glob("*state*"))

    assert main(["check", str(out), "--prefix", str(corpus), "--num-processes", "1"]) == 0
    assert main(["check", str(out), *options[:4], "--strict"]) == 1  # warnings are left


def test_chosen_kinds_are_dropped(corpus: Path, tmp_path: Path) -> None:
    rows = [GOOD, *ROWS_BY_KIND["long"], *ROWS_BY_KIND["missing"]]
    path = write_entries(tmp_path / "x.json", rows)
    out = tmp_path / "clean.json"
    options = ["--prefix", str(corpus), "--num-processes", "1", "--fix", "drop", "-o", str(out)]
    assert main(["check", str(path), *options, "--drop", "long"]) == 1
    assert [row["path"] for row in iterate_entries(out)] == ["good.wav", "gone.wav"]


def test_a_clean_annotation_has_nothing_to_list(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_entries(tmp_path / "x.json", [GOOD])
    options = ["--prefix", str(corpus), "--num-processes", "1"]
    assert (
        main(["check", str(path), *options, "--fix", "drop", "-o", str(tmp_path / "y.json")]) == 0
    )
    assert "checked 1 clips, 2.0 s: 0 with errors, 0 with warnings" in capsys.readouterr().out
    assert not (tmp_path / "y.dropped.jsonl").exists()


def test_nothing_left_is_told(corpus: Path, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", [GOOD])
    options = ["--prefix", str(tmp_path), "--num-processes", "1", "--fix", "drop"]
    with pytest.raises(
        UserError, match=r"no clip; .*\(good.wav\), is missing: .*is --prefix right"
    ):
        main(["check", str(path), *options, "-o", str(tmp_path / "y.json")])
    assert not (tmp_path / "y.json").exists()


class Interrupted(Exception):
    pass


def test_an_interrupted_check_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**GOOD, "Q": str(number)} for number in range(70)]
    rows[3], rows[65] = ROWS_BY_KIND["long"][0], ROWS_BY_KIND["missing"][0]
    path = write_entries(tmp_path / "x.json", rows)
    expected = check_annotation(path, prefix=str(corpus))

    looked_at: list[int] = []
    inspect = checking.inspect_entry

    def count(index: int, *arguments: Any) -> Any:
        looked_at.append(index)
        return inspect(index, *arguments)

    def interrupt(num_clips: int) -> None:
        if num_clips == 64:
            raise Interrupted

    monkeypatch.setattr(checking, "inspect_entry", count)
    with pytest.raises(Interrupted):
        check_annotation(path, prefix=str(corpus), report_progress=interrupt)
    state = tmp_path / "x.json.check-state.jsonl"
    assert looked_at == list(range(64))
    with state.open("a") as file:
        file.write("[64, [], 12, 2.0")  # the machine stopped in the middle of a line
    looked_at.clear()
    report = check_annotation(path, prefix=str(corpus))
    assert looked_at == list(range(64, 70))
    assert report.num_resumed == 64
    assert (report.problems, report.rates_hz) == (expected.problems, expected.rates_hz)
    assert report.seconds == pytest.approx(expected.seconds, abs=0.1)
    assert not state.exists()


def test_state_of_another_file_is_not_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_entries(tmp_path / "x.json", [{**GOOD, "Q": str(i)} for i in range(40)])

    def interrupt(num_clips: int) -> None:
        if num_clips:
            raise Interrupted

    with pytest.raises(Interrupted):
        check_annotation(path, prefix=str(corpus), report_progress=interrupt)
    write_entries(path, [{**GOOD, "Q": str(i)} for i in range(39)])
    os.utime(path, ns=(1, 1))
    report = check_annotation(path, prefix=str(corpus))
    assert (report.num_clips, report.num_resumed) == (39, 0)


def test_state_elsewhere_and_in_a_bad_place(corpus: Path, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", [GOOD])
    check_annotation(path, prefix=str(corpus), state_path=tmp_path / "state")
    with pytest.raises(UserError, match=r"cannot write .*--state where"):
        check_annotation(path, prefix=str(corpus), state_path=tmp_path / "no" / "state")


def test_a_failed_check_leaves_no_empty_state(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"annotation": [{"path": "a.wav", "text": "x"}, {"path" 1}]}')
    with pytest.raises(UserError, match="line 1, column 57"):
        check_annotation(path)
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_full_disk_is_told_and_leaves_what_is_done(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    path = write_entries(tmp_path / "x.jsonl", [GOOD] * 2000)
    program = (
        "import resource; from audiolm.data.__main__ import main\n"
        "from audiolm.errors import run_command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (NUM_BYTES, NUM_BYTES))\n"
        "run_command(main)\n"
    )
    for limit, is_resumable in ((50, False), (20_000, True)):
        command = [sys.executable, "-c", program.replace("NUM_BYTES", str(limit))]
        command += ["check", str(path), "--num-processes", "1"]
        done = subprocess.run(command, cwd=PACKAGE_DIR, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        reason = f"{os.strerror(errno.EFBIG)}; say with --state"
        message = done.stderr.splitlines()[-1].partition("error: ")[2]
        assert message.startswith(f"cannot write {path}.check-state.jsonl: {reason}")
        assert Path(f"{path}.check-state.jsonl").exists() == is_resumable
    report = check_annotation(path)
    assert 0 < report.num_resumed < report.num_clips == 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fix", "drop"], "--fix drop and -o OUT.json go together"),
        (["-o", "y.json"], "--fix drop and -o OUT.json go together"),
        (["--drop", "long"], "--drop says what --fix leaves out"),
        (["--fix", "drop", "-o", "y.json", "--drop", "lng"], "--drop: 'lng' is none of entry"),
        (["--fix", "drop", "-o", "x.json"], "x.json is the input itself"),
        (["--json", "x.json"], "x.json is the input itself"),
    ],
)
def test_wrong_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_entries(tmp_path / "x.json", [GOOD])
    with pytest.raises(UserError, match=message):
        main(["check", "x.json", *options])
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        ("it is eleven", "asr", []),
        ("A dog barks. 한국어 é", "audiocaption_v2", []),
        ("OK", "asr", []),
        ("IT IS ELEVEN", "audiocaption_v2", []),
        ("IT IS ELEVEN", "asr", ["text_form: all capitals"]),
        ("well <COMMA> then", "asr", ["text_form: corpus mark-up <COMMA>"]),
        ("rock &amp; roll", "asr", ["text_form: HTML entity &amp;"]),
        ("caf\ufffd", "asr", ["text_form: replacement character (lost in another encoding)"]),
        ("two  spaces", "asr", ["text_form: outer, doubled or unusual white space"]),
        ("end ", "asr", ["text_form: outer, doubled or unusual white space"]),
        ("bell\x07", "asr", ["text_form: control character"]),
        ("cafe\u0301", "asr", ["text_form: not in Unicode NFC"]),
        ("hi</s>", "asr", ["special_token: </s>"]),
        ("[PAD] hi", "asr", ["special_token: [PAD]"]),
        ("<Speech><SpeechHere></Speech>", "asr", ["special_token: <Speech>"]),
        ("\n", "asr", ["empty_text"]),
    ],
)
def test_text_problems(text: str, task: str, expected: list[str]) -> None:
    found = find_text_problems([text], task)
    assert [f"{kind}: {detail}".rstrip(": ") for kind, detail in found] == expected


def iterate_repeats(keys: list[int]) -> Iterator[tuple[int, int]]:
    first: dict[int, int] = {}
    for index, key in enumerate(keys):
        if first.setdefault(key, index) != index:
            yield index, first[key]


def test_repeats_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    for size in (0, 1, 2, 50, 500):
        keys = generator.integers(-size // 3, size // 3 + 1, size)
        assert find_repeats(keys) == dict(iterate_repeats(keys.tolist()))
