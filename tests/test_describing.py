"""`stats` and `leaks`: the numbers are right, and what train and test share is found."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audiolm.data.__main__ import main
from audiolm.data.identity import normalise_text
from audiolm.data.leaks import find_leaks
from audiolm.data.statistics import compute_statistics
from audiolm.errors import UserError
from tests.corpora import copy_audio, write_audio, write_entries

PACKAGE_PARENT = Path(__file__).resolve().parent.parent / "audiolm-trainer"
ROWS: list[dict[str, Any]] = [
    {"path": "c1/a.wav", "text": "the cat sat", "task": "asr", "duration": 2.5},
    {"path": "c1/b.wav", "text": "The cat, the dog!", "duration": 3600},
    {"path": "x.wav", "text": ["a bell", "bells <&>"], "task": "QA", "corpus": "sounds"},
]


def test_statistics(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", ROWS)
    statistics = compute_statistics(path)
    whole = statistics.all
    assert (whole.num_entries, whole.num_with_seconds, whole.seconds) == (3, 2, 3602.5)
    assert (whole.num_texts, whole.num_words) == (4, 10)
    assert whole.vocabulary == {
        "the": 3,
        "cat": 2,
        "sat": 1,
        "dog": 1,
        "a": 1,
        "bell": 1,
        "bells": 1,
    }
    assert whole.second_bins == {2: 1, 31: 1}
    assert whole.word_bins == {3: 1, 4: 1, 2: 1, 1: 1}
    assert {name: group.num_entries for name, group in statistics.by_task.items()} == {
        "asr": 2, "QA": 1,
    }  # fmt: skip
    assert {name: group.num_entries for name, group in statistics.by_corpus.items()} == {
        "c1": 2, "sounds": 1,
    }  # fmt: skip
    write_audio(tmp_path / "x.wav", 1.25)
    assert compute_statistics(path, prefix=str(tmp_path)).all.seconds == 3603.75


class PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not {name for name, _ in attrs} & {"src", "href"}, "the page needs nothing else"
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_stats_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_entries(tmp_path / "x.json", ROWS)
    page = tmp_path / "stats.html"
    assert main(["stats", str(path), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "corpus sounds" in printed
    assert "length unknown: 1 clips" in printed
    assert "vocabulary: 7 words, 5 of them once" in printed
    assert "     0-4" in printed.replace("0-4 ", "0-4 ")
    reader = PageReader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.tags.count("svg") == 2
    assert {"task asr", "corpus c1", "3,602", "bells"} & set(reader.texts) >= {"task asr", "bells"}
    assert "script" not in reader.tags
    with pytest.raises(UserError, match="stats.html exists"):
        main(["stats", str(path), "--html", str(page)])


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Train (4 entries) and test (3), which share a file, a copy and a text."""
    for seed, name in enumerate(["a", "b", "c", "d"]):
        write_audio(tmp_path / f"train/{name}.wav", 2.0, seed=seed)
    copy_audio(tmp_path / "train/c.wav", tmp_path / "test/copy.flac")
    write_audio(tmp_path / "test/new.wav", 2.0, seed=9)
    train = [{"path": f"train/{name}.wav", "text": f"text of {name}"} for name in "abcd"]
    test = [
        {"path": "/train/b.wav", "text": "other words"},
        {"path": "test/copy.flac", "text": "still other words"},
        {"path": "test/new.wav", "text": "Text, of D!"},
    ]
    return write_entries(tmp_path / "a.json", train), write_entries(tmp_path / "b.jsonl", test)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_leaks_of_every_kind(sets: tuple[Path, Path], num_processes: int) -> None:
    prefix = str(sets[0].parent)
    report = find_leaks(*sets, prefix_a=prefix, prefix_b=prefix, num_processes=num_processes)
    assert [leak[:3] for leak in report.leaks] == [
        ("audio", 1, 0), ("path", 1, 0), ("audio", 2, 1), ("text", 3, 2),
    ]  # fmt: skip
    assert report.num_entries == (4, 3)
    turned = find_leaks(*sets[::-1], prefix_a=prefix, prefix_b=prefix)  # the smaller one is A now
    assert {(leak.kind, leak.index_b, leak.index_a) for leak in turned.leaks} == {
        leak[:3] for leak in report.leaks
    }


def test_leaks_command(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "leaks.json"
    arguments = ["leaks", *map(str, sets), "--prefix", str(tmp_path), "--num-processes", "1"]
    assert main([*arguments, "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "same path         1 entries" in printed
    assert "Text, of D! (entry 2, as entry 3)" in printed
    assert len(json.loads(out.read_text())["leaks"]) == 4
    assert main([*arguments, "--by", "text", "--min-words", "4"]) == 0
    (tmp_path / "test/copy.flac").unlink()
    assert main([*arguments, "--by", "audio"]) == 1
    assert "1 clips could not be read; see check" in capsys.readouterr().out


def test_parts_of_a_split_do_not_leak(tmp_path: Path) -> None:
    rows = [
        {"path": f"{i % 40}.wav", "offset": i, "duration": 1, "text": f"words {i}"}
        for i in range(200)
    ]
    path = write_entries(tmp_path / "x.json", rows)
    main(["split", str(path), "-o", str(tmp_path / "p"), "--test", "0.2"])
    files = [str(tmp_path / f"p/{part}.json") for part in ("train", "test")]
    assert main(["leaks", *files, "--by", "path", "text"]) == 0


def test_a_path_out_of_the_prefix_is_told_with_its_entry(tmp_path: Path) -> None:
    write_audio(tmp_path / "in/a.wav")
    good = write_entries(tmp_path / "good.json", [{"path": "a.wav", "text": "x"}])
    rows = [{"path": "a.wav", "text": "x"}, {"path": "../a.wav", "text": "y"}]
    bad = write_entries(tmp_path / "bad.json", rows)
    prefix = ["--prefix", str(tmp_path / "in")]
    place = r"annotation\[1\] \(\.\./a\.wav\): .* leads out of"
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(UserError, match=place):
            main(["leaks", *map(str, pair), *prefix, "--num-processes", "1"])
    with pytest.raises(UserError, match=place):
        main(["shard", str(bad), *prefix, "-o", str(tmp_path / "s"), "--num-processes", "1"])
    assert not (tmp_path / "s").exists()


def test_parts_grouped_by_text_share_no_words(tmp_path: Path) -> None:
    """However they are written: with other capitals, marks or spaces."""
    forms = ("The door {} opens.", "the door {} opens", "...the  door {}, opens!")
    rows: list[dict[str, str | list[str]]] = [
        {"path": f"{i}.wav", "text": forms[i % 3].format(chr(97 + i // 3))} for i in range(3 * 26)
    ]
    rows.append({"path": "two.wav", "text": ["A door.", "It opens."]})
    path = write_entries(tmp_path / "x.json", rows)
    for group, status in (("path", 1), ("text", 0)):
        folder = tmp_path / group
        options = ["--valid", "0", "--test", "0.3", "--group", group]
        main(["split", str(path), "-o", str(folder), *options])
        files = [str(folder / f"{part}.json") for part in ("train", "test")]
        assert main(["leaks", *files, "--by", "text"]) == status


def test_nothing_is_said_when_the_reader_stops(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.json", [{"path": "a.wav", "text": "x"}])
    command = [sys.executable, "-m", "audiolm.data", "stats", str(path)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, cwd=PACKAGE_PARENT, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == 141
    assert "error" not in done.stderr.lower()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Ship doesn't sail.", "the ship doesnt sail"),
        ("ＦＵＬＬ width", "full width"),
        ("한국어, 시험!", "한국어 시험"),
        ("...", ""),
    ],
)
def test_texts_are_compared_by_their_words(text: str, expected: str) -> None:
    assert normalise_text(text) == expected
