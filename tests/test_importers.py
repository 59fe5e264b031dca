"""Corpora in their published layouts -> annotations whose every clip can be loaded."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiolm.audio.loading import load_waveform
from audiolm.data import entries
from audiolm.data.__main__ import build_parser, main
from audiolm.data.annotations import load_annotation
from audiolm.data.dataset import AudioDataset
from audiolm.data.entries import iterate_entries
from audiolm.data.importers.kinds import CORPUS_KINDS, guess_kind
from audiolm.errors import UserError
from tests.corpora import CORPORA, write_audio, write_hub_parquet, write_saved_dataset, write_table


def no_log_mel(samples: np.ndarray) -> torch.Tensor:
    return torch.zeros(4, 3000)


class Importer:
    """Runs `import` in a folder and reads what it wrote."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.corpus = folder / "corpus"
        self.out = folder / "out.json"
        self._capsys = capsys
        self.printed = ""

    def run(self, kind: str, source: Path, *options: str) -> list[dict[str, Any]]:
        assert main(["import", kind, str(source), "-o", str(self.out), *options]) == 0
        self.printed = self._capsys.readouterr().out
        rows = list(iterate_entries(self.out))
        for row in rows:
            assert not Path(row["path"]).is_absolute()
        return rows

    @property
    def prefix(self) -> str:
        return self.printed.splitlines()[-1].partition("datasets.prefix: ")[2]

    def load(self) -> list[dict[str, Any]]:
        """Every clip as training would read it."""
        clips = load_annotation(self.out, require_text=True)
        dataset = AudioDataset(clips, self.prefix, no_log_mel, long_audio="truncate")
        items = [dataset[index] for index in range(len(dataset))]
        assert all(isinstance(item, dict) for item in items)
        return items  # type: ignore[return-value]


@pytest.fixture
def importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


def test_librispeech(importer: Importer) -> None:
    source = CORPORA["librispeech"](importer.corpus)
    rows = importer.run("librispeech", source)
    assert [row["path"] for row in rows] == [
        "test-other/367/130732/367-130732-0000.flac",
        "train-clean-100/19/198/19-198-0000.flac",
        "train-clean-100/19/198/19-198-0001.flac",
        "train-clean-100/26/495/26-495-0000.flac",
    ]
    assert rows[2] == {
        "path": "train-clean-100/19/198/19-198-0001.flac",
        "text": "this little work was finished",
        "task": "asr",
        "duration": 2.0,
        "corpus": "librispeech",
        "subset": "train-clean-100",
        "speaker": "19",
    }
    assert "wrote " in importer.printed
    assert "4 entries, 5.0 s" in importer.printed
    assert importer.prefix == str(source)
    assert [len(item["raw_wav"]) for item in importer.load()] == [16_000, 16_000, 32_000, 16_000]


def test_librispeech_parts_folders_and_case(importer: Importer) -> None:
    source = CORPORA["librispeech"](importer.corpus)
    rows = importer.run("librispeech", source, "--part", "test-other", "--testset-ids")
    assert [(row["subset"], row["testset_id"]) for row in rows] == [("test-other", "test0000")]
    subset = source / "train-clean-100"
    rows = importer.run("librispeech", subset, "--overwrite", "--keep-case", "--task", "asr_x")
    assert [row["subset"] for row in rows] == ["train-clean-100"] * 3
    assert rows[0]["path"] == "19/198/19-198-0000.flac"
    assert rows[0]["text"] == "NORTHANGER ABBEY"
    assert rows[0]["task"] == "asr_x"
    rows = importer.run(
        "librispeech", subset, "--overwrite", "--prefix", str(importer.folder), "--part",
        "train-clean-100",
    )  # fmt: skip
    assert rows[0]["path"].startswith("corpus/LibriSpeech/train-clean-100/19/")
    with pytest.raises(UserError, match="no part dev-other; there are test-other, train-clean-100"):
        importer.run("librispeech", source, "--overwrite", "--part", "dev-other")


def test_librispeech_says_what_has_no_transcript(importer: Importer) -> None:
    source = CORPORA["librispeech"](importer.corpus)
    write_audio(source / "test-other/367/130732/367-130732-0001.flac")
    importer.run("librispeech", source)
    assert "left out: 1 audio without a transcript" in importer.printed


def test_gigaspeech_keeps_offsets(importer: Importer) -> None:
    source = CORPORA["gigaspeech"](importer.corpus)
    rows = importer.run("gigaspeech", source)
    assert rows == [
        {
            "path": "audio/podcast/P0000/POD0000000001.opus",
            "text": "douglas mcgray is going to be our guide",
            "task": "asr",
            "offset": 0.0,
            "duration": 4.5,
            "corpus": "gigaspeech",
            "sid": "POD0000000001_S0000000",
        },
        {
            "path": "audio/podcast/P0000/POD0000000001.opus",
            "text": "you walk through the door you see it",
            "task": "asr",
            "offset": 33.25,
            "duration": 4.25,
            "corpus": "gigaspeech",
            "sid": "POD0000000001_S0000001",
        },
    ]
    assert "left out: 1 segments without speech" in importer.printed
    items = importer.load()
    assert [len(item["raw_wav"]) for item in items] == [72_000, 68_000]
    whole = load_waveform(source / rows[1]["path"], span=load_annotation(importer.out)[1].span)
    np.testing.assert_array_equal(items[1]["raw_wav"].numpy(), whole.samples)


def test_gigaspeech_subsets_and_punctuation(importer: Importer) -> None:
    source = CORPORA["gigaspeech"](importer.corpus) / "GigaSpeech.json"
    rows = importer.run("gigaspeech", source, "--part", "XS", "--punctuation", "--keep-case")
    assert [row["text"] for row in rows] == ["DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE."]
    rows = importer.run("gigaspeech", source, "--part", "{DEV}", "XS", "--overwrite")
    assert [row["text"] for row in rows] == ["douglas mcgray is going to be our guide", "hold on"]


def test_audiocaps_keeps_all_captions(importer: Importer) -> None:
    source = CORPORA["audiocaps"](importer.corpus)
    rows = importer.run("audiocaps", source / "train.csv")
    assert [(row["path"], row["text"]) for row in rows] == [
        ("train/r1nicOVtvkQ.wav", "A woman talks nearby as water pours"),
        ("train/-NrFeH-kBSM_20.flac", 'Multiple clanging and clanking sounds, "loud" ones'),
    ]
    (row,) = importer.run("audiocaps", source, "--part", "test", "--overwrite")
    assert row["text"] == [
        f"Constant rattling noise and sharp vibrations {number}" for number in range(5)
    ]
    assert row["task"] == "audiocaption_v2"
    (item,) = importer.load()
    assert item["references"] == row["text"]
    with pytest.raises(UserError, match="several parts; choose with --part among test, train"):
        importer.run("audiocaps", source, "--overwrite")


def test_audiocaps_audio_elsewhere_and_named_otherwise(importer: Importer) -> None:
    source = CORPORA["audiocaps"](importer.corpus)
    elsewhere = importer.folder / "downloads"
    write_audio(elsewhere / "clip-r1nicOVtvkQ-130.wav")
    options = ["--audio-dir", str(elsewhere), "--audio-name", "clip-{youtube_id}-{start_time}"]
    with pytest.raises(UserError, match=r"1 of 2 entries have no usable audio; first: .*NrFeH"):
        importer.run("audiocaps", source / "train.csv", *options)
    assert not importer.out.exists()
    rows = importer.run("audiocaps", source / "train.csv", *options, "--missing", "drop")
    assert [row["path"] for row in rows] == ["clip-r1nicOVtvkQ-130.wav"]
    assert importer.prefix == str(elsewhere)
    assert "left out: 1 entries whose audio is missing or unreadable" in importer.printed
    assert "first unusable: " in importer.printed
    rows = importer.run(
        "audiocaps", source / "train.csv", *options, "--missing", "keep", "--overwrite"
    )
    assert len(rows) == 2
    with pytest.raises(UserError, match=r"use \{youtube_id\}, \{start_time\}, \{audiocap_id\}"):
        importer.run("audiocaps", source / "train.csv", "--audio-name", "{id}", "--overwrite")


def test_clotho_keeps_five_captions(importer: Importer) -> None:
    source = CORPORA["clotho"](importer.corpus)
    (row,) = importer.run("clotho", source, "--part", "development")
    assert row["path"] == "development/Distorted AM Radio noise.wav"
    assert len(row["text"]) == 5
    assert row["duration"] == 2.0
    (row,) = importer.run("clotho", source / "clotho_captions_evaluation.csv", "--overwrite")
    assert row["path"] == "evaluation/a b.wav"
    (item,) = importer.load()
    assert len(item["raw_wav"]) == 32_000  # of 44.1 kHz


def test_wavcaps(importer: Importer) -> None:
    source = CORPORA["wavcaps"](importer.corpus)
    rows = importer.run("wavcaps", source)
    assert rows == [
        {
            "path": "AudioSet_SL_flac/Yb0RFKhbpFJA.flac",
            "text": "Wind and a man speaking are heard.",
            "task": "audiocaption_v2",
            "duration": 1.5,
            "corpus": "wavcaps/AudioSet_SL",
        },
        {
            "path": "FreeSound_flac/180913.flac",
            "text": "Glass is falling.",
            "task": "audiocaption_v2",
            "duration": 31.5,
            "corpus": "wavcaps/FreeSound",
        },
    ]
    assert [item["was_truncated"] for item in importer.load()] == [False, True]
    rows = importer.run("wavcaps", source, "--part", "FreeSound", "--overwrite")
    assert [row["corpus"] for row in rows] == ["wavcaps/FreeSound"]


def test_wavcaps_sources_use_the_same_numbers(importer: Importer) -> None:
    """As zips unpack elsewhere: a file of the same name in another source is another sound."""
    source = CORPORA["wavcaps"](importer.corpus)
    for name in ("AudioSet_SL", "FreeSound"):
        (source / f"waveforms/{name}").mkdir(parents=True)
        (source / f"{name}_flac").rename(source / f"waveforms/{name}/unzipped")
    write_audio(source / "waveforms/AudioSet_SL/unzipped/180913.flac")
    rows = importer.run("wavcaps", source)
    assert [row["path"] for row in rows] == [
        "waveforms/AudioSet_SL/unzipped/Yb0RFKhbpFJA.flac",
        "waveforms/FreeSound/unzipped/180913.flac",
    ]


@pytest.mark.parametrize(
    "folder",
    [
        "clotho_audio_evaluation/evaluation",
        "audio_evaluation/evaluation",
        "clotho_audio_evaluation",
    ],
)
def test_clotho_in_the_folders_of_its_archives(importer: Importer, folder: str) -> None:
    source = CORPORA["clotho"](importer.corpus)
    (source / folder).parent.mkdir(exist_ok=True)
    (source / "evaluation").rename(source / folder)
    (row,) = importer.run("clotho", source, "--part", "evaluation")
    assert row["path"] == f"{folder}/a b.wav"


def test_clotho_as_the_baselines_have_it(importer: Importer) -> None:
    source = CORPORA["clotho"](importer.corpus)
    (source / "clotho_csv_files").mkdir()
    for table in source.glob("*.csv"):
        table.rename(source / "clotho_csv_files" / table.name)
    (source / "clotho_audio_files").mkdir()
    (source / "evaluation").rename(source / "clotho_audio_files/evaluation")
    (row,) = importer.run("clotho", source, "--part", "evaluation")
    assert row["path"] == "clotho_audio_files/evaluation/a b.wav"


def test_a_file_of_another_kind_is_told_before_its_mistakes(importer: Importer) -> None:
    """An annotation is no valid JSON lines, but that is not what the user did wrong."""
    with pytest.raises(UserError, match="it looks like SALMONN annotation: import salmonn$"):
        importer.run("nemo", CORPORA["salmonn"](importer.corpus))


def test_nemo_keeps_offset_and_duration(importer: Importer) -> None:
    rows = importer.run("nemo", CORPORA["nemo"](importer.corpus))
    assert [(row["path"], row.get("offset"), row["duration"]) for row in rows] == [
        ("audio/short.wav", None, 2.0),
        ("audio/long.wav", 4.5, 3.0),
        ("audio/long.wav", 0, 2.5),
    ]
    assert [len(item["raw_wav"]) for item in importer.load()] == [32_000, 48_000, 40_000]


def test_hub_parquet_bytes_become_files(importer: Importer) -> None:
    source = write_hub_parquet(importer.corpus)
    rows = importer.run("hf", source, "--part", "train")
    names = ["train/0000000.wav", "train/0000001.flac", "train/0000002.mp3"]
    assert [row["path"] for row in rows] == names
    assert [row["text"] for row in rows] == [f"sentence {seed} of train" for seed in range(3)]
    assert importer.prefix == str(importer.folder / "out_audio")
    assert len(importer.load()) == 3
    with pytest.raises(UserError, match="several parts; choose with --part among test, train"):
        importer.run("hf", source, "--overwrite")
    importer.out.unlink()
    with pytest.raises(UserError, match="out_audio exists"):
        importer.run("hf", source, "--part", "train")
    leftovers = [path.name for path in importer.folder.iterdir() if "partial" in path.name]
    assert not leftovers


def test_hub_parquet_whose_names_end_with_a_hash(importer: Importer) -> None:
    """As older pushes to the hub are called: train-00000-of-00001-5de9fb4728fcba33.parquet."""
    source = write_hub_parquet(importer.corpus)
    for path in sorted((source / "data").glob("*.parquet")):
        path.rename(path.with_name(f"{path.stem}-5de9fb4728fcba33.parquet"))
    rows = importer.run("hf", source, "--part", "train")
    assert [row["text"] for row in rows] == [f"sentence {seed} of train" for seed in range(3)]


def test_hub_parquet_with_paths(importer: Importer) -> None:
    source = write_hub_parquet(importer.corpus, has_bytes=False)
    rows = importer.run("hf", source, "--part", "test")
    assert [row["path"] for row in rows] == ["audio/test_0.wav"]
    assert importer.prefix == str(source)
    assert not (importer.folder / "out_audio").exists()


def test_saved_dataset_with_lists_of_captions(importer: Importer) -> None:
    rows = importer.run("hf", write_saved_dataset(importer.corpus), "--task", "audiocaption_v2")
    assert [row["text"] for row in rows] == [["a tone", "a beep"], "another tone"]
    assert len(importer.load()) == 2


def test_salmonn_keeps_tasks_and_questions(importer: Importer) -> None:
    rows = importer.run("salmonn", CORPORA["salmonn"](importer.corpus))
    assert rows[0]["path"] == "LibriSpeech/a.wav"
    assert rows[1] == {
        "path": "scenes/b.wav",
        "text": "no",
        "task": "QA",
        "Q": "Is it raining?",
        "duration": 3.1,
        "expand_wav": ["LibriSpeech/a.wav"],
    }
    assert len(importer.load()[1]["raw_wav"]) == 49_600


def test_csv_usual_and_named_columns(importer: Importer) -> None:
    rows = importer.run("csv", CORPORA["csv"](importer.corpus))
    assert [(row["path"], row["text"], row["speaker"]) for row in rows] == [
        ("clips/common_voice_en_0.mp3", "Say 0.", "c0"),
        ("clips/common_voice_en_1.mp3", "Say 1.", "c1"),
    ]
    write_audio(importer.corpus / "x.wav", seconds=5)
    table = write_table(
        importer.corpus / "t.csv",
        ("clip", "from", "end", "one", "two", "ask"),
        [("x", "1.5", "3.75", "a beep", "a tone", "What?")],
    )
    named = "--columns path=clip offset=from text=one text=two Q=ask".split()
    (row,) = importer.run("csv", table, *named, "--overwrite")
    assert row == {
        "path": "x.wav",  # named without its suffix
        "text": ["a beep", "a tone"],
        "task": "asr",
        "Q": "What?",
        "offset": 1.5,
        "duration": 2.25,
    }


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        ("file,words", ["a.wav,x"], [], "no column for text; found file,words; .*--columns text="),
        ("path,text", ["a.wav,x,y"], [], r"line 2 has 3 cells, the header has 2"),
        ("path,text,offset", ["a.wav,x,soon"], [], "line 2: offset is 'soon'"),
        ("path,text,start,end", ["a.wav,x,3,2"], [], "line 2: the clip ends at 2 s, before"),
        ("path,text", ["a.wav,x"], ["--columns", "text=words"], "no column words; there are path"),
        ("path,text", ["a.wav,x"], ["--columns", "words=text"], "no key words; there are path"),
        ("path,text", ["a.wav,x"], ["--columns", "text"], "'text' is not KEY=VALUE"),
        ("path,text", ["a.wav,"], [], "no entry can be imported"),
    ],
)
def test_wrong_tables(
    importer: Importer, header: str, rows: list[str], options: list[str], message: str
) -> None:
    write_audio(importer.folder / "a.wav")
    table = importer.folder / "t.csv"
    table.write_text("\n".join([header, *rows]), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        importer.run("csv", table, *options)
    assert "\n" not in str(caught.value)
    assert not importer.out.exists()


@pytest.mark.parametrize("kind", list(CORPUS_KINDS))
def test_each_corpus_is_recognised(kind: str, tmp_path: Path) -> None:
    assert guess_kind(CORPORA[kind](tmp_path)) == kind


@pytest.mark.parametrize("kind", list(CORPUS_KINDS))
def test_wrong_kind_says_what_was_expected_and_found(kind: str, importer: Importer) -> None:
    other = "clotho" if kind != "clotho" else "librispeech"
    source = CORPORA[other](importer.corpus)
    with pytest.raises(UserError, match=rf"expected .*found .*import {other}$") as caught:
        importer.run(kind, source)
    assert "\n" not in str(caught.value)
    assert not importer.out.exists()


@pytest.mark.parametrize("kind", list(CORPUS_KINDS))
def test_nothing_and_empty_folders(kind: str, importer: Importer) -> None:
    with pytest.raises(UserError, match="nothing at"):
        importer.run(kind, importer.folder / "nowhere")
    importer.corpus.mkdir()
    with pytest.raises(UserError, match="found an empty folder"):
        importer.run(kind, importer.corpus)


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.jsonl.gz"])
def test_outputs_in_every_format_are_the_same_clips(importer: Importer, name: str) -> None:
    source = CORPORA["nemo"](importer.corpus)
    expected = importer.run("nemo", source)
    importer.out = importer.folder / f"again.{name}"
    assert importer.run("nemo", source) == expected
    assert len(load_annotation(importer.out)) == 3


def test_outputs_are_not_replaced_unasked(importer: Importer) -> None:
    source = CORPORA["nemo"](importer.corpus)
    importer.out.write_text("precious")
    with pytest.raises(UserError, match="out.json exists; name another output, or give --overwr"):
        importer.run("nemo", source)
    assert importer.out.read_text() == "precious"
    importer.run("nemo", source, "--overwrite")
    importer.out = source
    with pytest.raises(UserError, match="manifest.json is the input itself"):
        importer.run("nemo", source, "--overwrite")
    importer.out = importer.folder / "out.csv"
    with pytest.raises(UserError, match="must end with one of .json, .jsonl, .jsonl.gz"):
        importer.run("nemo", source)


def test_a_failed_import_leaves_nothing(importer: Importer) -> None:
    source = CORPORA["gigaspeech"](importer.corpus) / "GigaSpeech.json"
    text = source.read_text()
    source.write_text(text.replace('"begin_time": 33.25, ', ""))
    with pytest.raises(UserError, match=r"audios\[0\] is not as expected \(KeyError: 'begin_time'"):
        importer.run("gigaspeech", source)
    source.write_text(text[:-40])
    with pytest.raises(UserError, match=r"not valid JSON: .* at line 1, column \d+"):
        importer.run("gigaspeech", source)
    source.write_text(text.replace("<COMMA>", "<COLON>"))
    with pytest.raises(UserError, match="tag <COLON>"):
        importer.run("gigaspeech", source)
    assert [path.name for path in importer.folder.iterdir()] == ["corpus"]


def test_paths_outside_the_prefix_are_refused(importer: Importer) -> None:
    manifest = CORPORA["nemo"](importer.corpus)
    outside = write_audio(importer.folder / "outside.wav")
    row = {"audio_filepath": str(outside), "duration": 1.5, "text": "x"}
    manifest.write_text(manifest.read_text() + json.dumps(row) + "\n")
    with pytest.raises(UserError, match="outside.wav is not below the prefix .*--prefix"):
        importer.run("nemo", manifest)
    rows = importer.run("nemo", manifest, "--prefix", str(importer.folder))
    assert rows[-1]["path"] == "outside.wav"


def test_too_many_testset_ids(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_TESTSET_IDS", 2)
    with pytest.raises(UserError, match="more than 2 entries: testset_ids have four digits"):
        importer.run("nemo", CORPORA["nemo"](importer.corpus), "--testset-ids")


def test_every_example_of_the_page_has_known_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command line of docs/data.md is taken by the parser; nothing is run."""
    page = (Path(__file__).resolve().parent.parent / "docs/data.md").read_text(encoding="utf-8")
    text = page.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("python -m audiolm.data ")]
    kinds = {line.split()[4] for line in lines if line.split()[3] == "import"}
    assert kinds == set(CORPUS_KINDS)
    assert {line.split()[3] for line in lines} > {"check", "split", "merge", "subset", "shard"}
    for line in lines:
        build_parser().parse_args(shlex.split(line)[3:])
