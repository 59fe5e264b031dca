"""Small corpora with real audio, laid out on disk as the published ones are."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import soundfile


def make_tone(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> np.ndarray:
    """A tone of its own pitch with a little noise: no two seeds sound alike."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).normal(size=times.shape) * 0.01
    return (0.3 * np.sin(2 * np.pi * (200 + 37 * seed) * times) + noise).astype(np.float32)


def write_audio(path: Path, seconds: float = 1.5, seed: int = 0, rate_hz: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, make_tone(seconds, rate_hz, seed), rate_hz, **options)
    return path


def copy_audio(source: Path, copy: Path) -> Path:
    """The same 16-bit samples in another format."""
    samples, rate_hz = soundfile.read(source, dtype="int16")
    copy.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(copy, samples, rate_hz)
    return copy


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([header, *rows])
    return path


def write_librispeech(root: Path) -> Path:
    """LibriSpeech/SUBSET/SPEAKER/CHAPTER with a transcript per chapter."""
    chapters = {
        "train-clean-100/19/198": {
            "19-198-0000": "NORTHANGER ABBEY",
            "19-198-0001": "THIS LITTLE WORK WAS FINISHED",
        },
        "train-clean-100/26/495": {"26-495-0000": "THE SHIP DON'T SAIL"},
        "test-other/367/130732": {"367-130732-0000": "LOBSTERS AND LOBSTERS"},
    }
    for seed, (folder, texts) in enumerate(chapters.items()):
        chapter = root / "LibriSpeech" / folder
        for number, name in enumerate(texts):
            write_audio(chapter / f"{name}.flac", 1.0 + number, seed=10 * seed + number)
        speaker, number = folder.split("/")[1:]
        lines = "".join(f"{name} {text}\n" for name, text in texts.items())
        (chapter / f"{speaker}-{number}.trans.txt").write_text(lines, encoding="utf-8")
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("; comments\n19 | F | train-clean-100\n")
    return root / "LibriSpeech"


def write_gigaspeech(root: Path) -> Path:
    """GigaSpeech.json over one long opus file, with its tags."""
    write_audio(root / "audio/podcast/P0000/POD0000000001.opus", seconds=40.0)
    texts = [
        ("DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE <PERIOD>", 0.0, 4.5, ["{XL}", "{XS}"]),
        ("YOU WALK THROUGH THE DOOR <COMMA> YOU SEE IT <QUESTIONMARK>", 33.25, 37.5, ["{XL}"]),
        ("<MUSIC>", 5.0, 8.0, ["{XL}"]),
        ("HOLD ON <EXCLAMATIONPOINT>", 9.0, 10.0, ["{DEV}"]),
    ]
    segments = [
        {
            "sid": f"POD0000000001_S{number:07d}",
            "speaker": "N/A",
            "begin_time": begin,
            "end_time": end,
            "text_tn": text,
            "subsets": subsets,
        }
        for number, (text, begin, end, subsets) in enumerate(texts)
    ]
    audio = {
        "title": "An episode",
        "url": "http://example.test/x.mp3",
        "path": "audio/podcast/P0000/POD0000000001.opus",
        "aid": "POD0000000001",
        "source": "podcast",
        "codec": "opus",
        "channels": 1,
        "md5": "0" * 32,
        "subsets": ["{XL}", "{XS}", "{DEV}"],
        "duration": 40.0,
        "segments": segments,
    }
    metadata = {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": [audio]}
    (root / "GigaSpeech.json").write_text(json.dumps(metadata), encoding="utf-8")
    return root


def write_audiocaps(root: Path) -> Path:
    """train.csv with one caption per clip, test.csv with five; audio under usual names."""
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    write_table(
        root / "train.csv",
        header,
        [
            (91139, "r1nicOVtvkQ", 130, "A woman talks nearby as water pours"),
            (58146, "-NrFeH-kBSM", 20, 'Multiple clanging and clanking sounds, "loud" ones'),
        ],
    )
    write_audio(root / "train/r1nicOVtvkQ.wav", seed=1)
    write_audio(root / "train/-NrFeH-kBSM_20.flac", seed=2)
    captions = [f"Constant rattling noise and sharp vibrations {number}" for number in range(5)]
    rows = [(97151 + number, "vfY_TJq7n_U", 130, text) for number, text in enumerate(captions)]
    write_table(root / "test.csv", header, rows)
    write_audio(root / "test/vfY_TJq7n_U.wav", seed=3)
    return root


def write_clotho(root: Path) -> Path:
    header = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    for part, name in (("development", "Distorted AM Radio noise.wav"), ("evaluation", "a b.wav")):
        captions = [f"A radio dispenses noise, way {number} in {part}" for number in range(5)]
        write_table(root / f"clotho_captions_{part}.csv", header, [(name, *captions)])
        write_audio(root / part / name, seconds=2.0, rate_hz=44_100, seed=len(part))
    return root


def write_wavcaps(root: Path) -> Path:
    """json_files/SOURCE/*.json, and flac files in SOURCE_flac/."""
    items = {
        "AudioSet_SL/as_final": {
            "id": "Yb0RFKhbpFJA.wav",
            "caption": "Wind and a man speaking are heard.",
            "audio": "wav_path",
            "duration": 1.5,
        },
        "FreeSound/fsd_final": {
            "id": "180913",
            "file_name": "Glass.wav",
            "href": "/people/someone/sounds/180913/",
            "tags": ["glass"],
            "author": "someone",
            "title": "Glass",
            "description": "Glass falls",
            "caption": "Glass is falling.",
            "audio": "wav_path",
            "download_link": "http://example.test/x.wav",
            "duration": 31.5,
        },
    }
    for name, item in items.items():
        path = root / "json_files" / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": [item]}), encoding="utf-8")
    write_audio(root / "AudioSet_SL_flac/Yb0RFKhbpFJA.flac", 1.5, seed=1)
    write_audio(root / "FreeSound_flac/180913.flac", 31.5, seed=2)
    return root


def write_nemo(root: Path) -> Path:
    write_audio(root / "audio/long.wav", seconds=10.0)
    write_audio(root / "audio/short.wav", seconds=2.0, seed=1)
    rows = [
        {"audio_filepath": "audio/short.wav", "duration": 2.0, "text": "the whole file"},
        {"audio_filepath": "audio/long.wav", "duration": 3.0, "offset": 4.5, "text": "a part"},
        {"audio_filepath": str(root / "audio/long.wav"), "duration": 2.5, "offset": 0, "text": "x"},
    ]
    path = root / "manifest.json"  # NeMo's name for JSON lines
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def encode_audio(format_name: str, seed: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, make_tone(1.5, seed=seed), 16_000, format=format_name, **options)
    return buffer.getvalue()


def write_hub_parquet(root: Path, has_bytes: bool = True) -> Path:
    """data/PART-00000-of-00001.parquet as the hub has it."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    for part, formats in (("train", ("WAV", "FLAC", "MP3")), ("test", ("OGG",))):
        audio = []
        for seed, name in enumerate(formats):
            file = f"audio/{part}_{seed}.wav"
            if not has_bytes:
                write_audio(root / file, seed=seed)
            content = encode_audio(name, seed) if has_bytes else None
            audio.append({"bytes": content, "path": file if not has_bytes else f"clip{seed}"})
        texts = [f"sentence {seed} of {part}" for seed in range(len(formats))]
        table = pyarrow.table(
            {"audio": pyarrow.array(audio, kind), "sentence": texts, "locale": ["en"] * len(texts)}
        )
        path = root / "data" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, path)
    return root


def write_saved_dataset(root: Path) -> Path:
    """What `Dataset.save_to_disk` writes: an arrow stream and its JSON files."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    audio = [{"bytes": encode_audio("WAV", seed), "path": None} for seed in range(2)]
    captions = [["a tone", "a beep"], ["another tone"]]
    table = pyarrow.table({"audio": pyarrow.array(audio, kind), "captions": captions})
    root.mkdir(parents=True, exist_ok=True)
    with pyarrow.ipc.new_stream(root / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (root / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (root / "dataset_info.json").write_text("{}")
    return root


def write_salmonn(root: Path) -> Path:
    write_audio(root / "LibriSpeech/a.wav", seed=1)
    write_audio(root / "scenes/b.wav", seed=2)
    rows = [
        {"path": "/LibriSpeech/a.wav", "text": "it is eleven", "task": "asr"},
        {"path": "scenes/b.wav", "text": "no", "task": "QA", "Q": "Is it raining?",
         "expand_wav": ["/LibriSpeech/a.wav"]},
    ]  # fmt: skip
    path = root / "stage2.json"
    path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return path


def write_common_voice(root: Path) -> Path:
    """A table with audio in clips/ beside it."""
    for seed in range(2):
        write_audio(root / f"clips/common_voice_en_{seed}.mp3", seed=seed)
    header = ("client_id", "path", "sentence", "up_votes")
    rows = [(f"c{seed}", f"common_voice_en_{seed}.mp3", f"Say {seed}.", 2) for seed in range(2)]
    return write_table(root / "validated.tsv", header, rows)


CORPORA: dict[str, Callable[[Path], Path]] = {
    "librispeech": write_librispeech,
    "gigaspeech": write_gigaspeech,
    "audiocaps": write_audiocaps,
    "clotho": write_clotho,
    "wavcaps": write_wavcaps,
    "nemo": write_nemo,
    "hf": write_hub_parquet,
    "salmonn": write_salmonn,
    "csv": write_common_voice,
}


def write_entries(path: Path, rows: Sequence[Any]) -> Path:
    """An annotation in the format that its name says, by the standard library alone."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    else:
        path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return path
