"""Make the corpus of the real run: recorded telephone prompts and synthetic speech.

    python scripts/make_real_corpus.py -o real/corpus \
        --sounds /usr/share/asterisk/sounds/en_US_f_Allison \
        --transcripts /usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz \
        --english /usr/share/games/fortunes/{wisdom,people,work}

The recordings and their transcripts are Debian's packages asterisk-core-sounds-en-wav and
asterisk-core-sounds-en (one speaker, 8 kHz); `--english` is any English text. Written are:

    train_recorded.json     recordings, and copies of them (speed, noise)
    train_joined.json       recordings joined to new sequences
    train_synthetic.json    synthetic speech
    valid.json, test.json   recordings whose sentence is nowhere in training
    audio/                  everything at 8 kHz: recorded/, changed/, synthetic/

Sentences of two words or more are dealt out to train, valid and test by a hash of their words;
single words are for training. Synthetic texts are pieces of training sentences and of the English
texts; one that contains a whole held-out sentence is thrown away.
"""

import argparse
import gzip
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.audio.loading import MAX_SECONDS, SAMPLE_RATE_HZ, load_waveform
from audiolm.data.demo.plan import SpeechClip
from audiolm.data.demo.rendering import render_clips
from audiolm.data.demo.speech import TRAIN_SPEAKERS, list_voices, resample
from audiolm.data.outputs import whole_folder
from audiolm.data.splitting import choose_part
from audiolm.errors import UserError, run_command

TELEPHONE_HZ = 8000
FRACTIONS = {"test": 0.24, "valid": 0.1}  # of the sentences of two words or more
MAX_TRAIN_SECONDS = 16.0  # a longer clip costs a training step more than it teaches
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {"*": " star ", "#": " pound ", "-": " "}
NOT_SPOKEN = re.compile(r"[\[(<][^\])>]*[\])>]")  # remarks in brackets
WORD = re.compile(r"[a-z']+")

Entry = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """Training clips to make beside the recordings themselves."""

    copies: int = 2  # of each recording, with another speed and noise
    joined: int = 1200  # sequences of two to four recordings
    domain: int = 4500  # synthetic, of pieces of training sentences
    english: int = 3000  # synthetic, of pieces of the English texts


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, write the corpus, say what is in it."""
    options = build_parser().parse_args(arguments)
    recordings = list_recordings(Path(options.sounds), Path(options.transcripts))
    english = [piece for path in options.english for piece in read_english(Path(path))]
    if not english:
        raise UserError(f"--english: no sentence found in {', '.join(options.english)}")
    with whole_folder(options.output, overwrite=False, sources=[]) as folder:
        counts = Counts(domain=options.num_domain, english=options.num_english)
        parts = build_parts(folder, recordings, english, counts, options.seed)
        for part, entries in parts.items():
            lines = ",\n".join(json.dumps(entry) for entry in entries)
            text = f'{{"annotation": [\n{lines}\n]}}\n'
            (folder / f"{part}.json").write_text(text, encoding="utf-8")
    for part, entries in parts.items():
        for kind in sorted({entry["kind"] for entry in entries}):
            seconds = [entry["duration"] for entry in entries if entry["kind"] == kind]
            print(f"{part:<17}{kind:<12}{len(seconds):>6} clips {sum(seconds) / 60:>7.1f} min")
    return 0


def list_recordings(sounds: Path, transcripts: Path) -> list[Entry]:
    """Every recording with a spoken text, shorter than 30 s; `path` is the file's own.

    Raises:
        UserError: no transcript has its recording there.
    """
    entries = []
    for name, text in read_transcripts(transcripts).items():
        path = sounds / f"{name}.wav"
        if not path.is_file():
            continue
        seconds = soundfile.info(path).duration
        if seconds <= MAX_SECONDS:
            entries.append({"path": str(path), "text": text, "sentence": text, "duration": seconds})
    if not entries:
        raise UserError(f"--sounds: no recording named in {transcripts} is in {sounds}")
    return entries


def read_transcripts(path: Path) -> dict[str, str]:
    """Name -> spoken words of `name: text` lines, without those that are sounds or ambiguous."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line and line[0] != ";"]
    spoken = {name.strip(): spell_out(transcript) for name, transcript in pairs}
    return {name: words for name, words in spoken.items() if words}


def spell_out(transcript: str) -> str:
    """Lower-case words, digits and signs spelled out; "" when it is unclear how it is spoken."""
    text = NOT_SPOKEN.sub(" ", transcript).lower().replace("’", "'")
    if not text.strip() or "www" in text or re.search(r"\d\d|\d[a-z]|\.\d", text):
        return ""
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub(r"\b([a-z])\.\s?(?=[a-z]\.)", r"\1 ", text)  # "a.m." is "a m"
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    return " ".join(WORD.findall(text))


def read_english(path: Path) -> list[str]:
    """Runs of at least three lower-case words without digits or stops between them."""
    text = path.read_text(encoding="utf-8", errors="replace").lower()
    pieces = re.split(r"[^a-z' \n]+|\n\s*\n", text)
    return [" ".join(words) for piece in pieces if len(words := WORD.findall(piece)) >= 3]


def build_parts(
    folder: Path, recordings: list[Entry], english: list[str], counts: Counts, seed: int
) -> dict[str, list[Entry]]:
    """Write the audio; the entries of train, valid and test."""
    for name in ("recorded", "changed", "synthetic"):
        (folder / "audio" / name).mkdir(parents=True)
    parts: dict[str, list[Entry]] = {"train_recorded": [], "valid": [], "test": []}
    for entry in recordings:
        part = "train_recorded"
        if " " in entry["text"]:
            drawn = choose_part(entry, FRACTIONS, seed, "sentence")
            part = part if drawn == "train" else drawn
        path = f"audio/recorded/{'_'.join(Path(entry['path']).parts[-2:])}"
        shutil.copyfile(entry["path"], folder / path)
        if part in FRACTIONS or entry["duration"] <= MAX_TRAIN_SECONDS:
            parts[part].append({**entry, "path": path, "task": "asr", "kind": "recorded"})
    for number, entry in enumerate(parts["test"]):
        entry["testset_id"] = f"test{number:04d}"

    rng = np.random.default_rng(seed)
    held_out = {entry["text"] for part in ("valid", "test") for entry in parts[part]}
    recorded = list(parts["train_recorded"])
    texts = [
        *draw_domain_texts(rng, [entry["text"] for entry in recorded], held_out, counts.domain),
        *draw_english_texts(rng, english, held_out, counts.english),
    ]
    parts["train_recorded"] += change_copies(folder, rng, recorded, counts.copies)
    parts["train_joined"] = join_recordings(rng, recorded, held_out, counts.joined)
    parts["train_synthetic"] = synthesize(folder, rng, texts, seed)
    return parts


def draw_domain_texts(
    rng: np.random.Generator, sentences: Sequence[str], held_out: set[str], count: int
) -> list[str]:
    """Two to nine words: one to three pieces of training sentences behind one another."""
    texts: list[str] = []
    while len(texts) < count:
        chosen = rng.choice(len(sentences), size=rng.integers(1, 4))
        text = " ".join(draw_piece(rng, sentences[int(number)], 5) for number in chosen)
        if 2 <= len(text.split()) <= 9 and is_allowed(text, held_out):
            texts.append(text)
    return texts


def draw_english_texts(
    rng: np.random.Generator, english: Sequence[str], held_out: set[str], count: int
) -> list[str]:
    """Two to eight words of one English sentence."""
    texts: list[str] = []
    while len(texts) < count:
        text = draw_piece(rng, english[int(rng.integers(len(english)))], 8)
        if len(text.split()) >= 2 and is_allowed(text, held_out):
            texts.append(text)
    return texts


def draw_piece(rng: np.random.Generator, text: str, most: int) -> str:
    """One to `most` words of a text that stand together."""
    words = text.split()
    length = min(int(rng.integers(1, most + 1)), len(words))
    start = int(rng.integers(len(words) - length + 1))
    return " ".join(words[start : start + length])


def is_allowed(text: str, held_out: set[str]) -> bool:
    """Whether no held-out sentence stands in the text as a whole."""
    return not any(f" {sentence} " in f" {text} " for sentence in held_out)


def change_copies(
    folder: Path, rng: np.random.Generator, recorded: Sequence[Entry], count: int
) -> list[Entry]:
    """Copies of recordings, 12 % slower to 12 % faster, with white noise at 15 to 40 dB."""
    from audiolm.audio.augment import (
        add_noise,
        change_speed,
    )  # with torch, which --help does without

    entries = []
    for copy in range(count):
        for number, entry in enumerate(recorded):
            samples = load_waveform(folder / entry["path"]).samples
            samples = change_speed(samples, float(rng.uniform(0.88, 1.12)))
            noise = rng.standard_normal(len(samples)).astype(np.float32)
            samples = add_noise(samples, noise, float(rng.uniform(15, 40)))
            path = f"audio/changed/{copy}_{number:04d}.wav"
            seconds = write_telephone(folder / path, samples)
            entries.append({**entry, "path": path, "duration": seconds, "kind": "changed"})
    return entries


def join_recordings(
    rng: np.random.Generator, recorded: Sequence[Entry], held_out: set[str], count: int
) -> list[Entry]:
    """Two to four short recordings behind one another, as `expand_wav` joins them."""
    short = [entry for entry in recorded if entry["duration"] <= 2.5]
    entries: list[Entry] = []
    while len(entries) < count:
        chosen = [short[int(i)] for i in rng.choice(len(short), size=rng.integers(2, 5))]
        text = " ".join(entry["text"] for entry in chosen)
        seconds = sum(entry["duration"] for entry in chosen) + 0.1 * (len(chosen) - 1)
        if is_allowed(text, held_out):
            first, *others = (entry["path"] for entry in chosen)
            entries.append(
                {"path": first, "expand_wav": others, "text": text, "task": "asr", "kind": "joined",
                 "duration": seconds}
            )  # fmt: skip
    return entries


def synthesize(
    folder: Path, rng: np.random.Generator, texts: Sequence[str], seed: int
) -> list[Entry]:
    """Speak every text in one of the demo corpus's training voices, at 8 kHz."""
    voices = list_voices(TRAIN_SPEAKERS)
    clips = [
        SpeechClip(
            path=f"audio/synthetic/{number:05d}.wav",
            split="train",
            part="full",
            text=text,
            voice=voices[int(rng.integers(len(voices)))],
            words_per_minute=int(rng.integers(120, 190)),
            pitch=int(rng.integers(30, 76)),
        )
        for number, text in enumerate(texts)
    ]
    render_clips(clips, [], folder, seed=seed, num_processes=1, report=print)
    entries = []
    for clip in clips:
        samples, _ = soundfile.read(folder / clip.path, dtype="float32")
        seconds = write_telephone(folder / clip.path, samples)
        entries.append(
            {"path": clip.path, "text": clip.text, "task": "asr", "kind": "synthetic",
             "duration": seconds}
        )  # fmt: skip
    return entries


def write_telephone(path: Path, samples: np.ndarray) -> float:
    """Write 16 kHz samples (T,) at 8 kHz, as the recordings are; the seconds written."""
    samples = resample(samples, SAMPLE_RATE_HZ, TELEPHONE_HZ)
    soundfile.write(path, np.clip(samples, -1, 1), TELEPHONE_HZ, subtype="PCM_16")
    return len(samples) / TELEPHONE_HZ


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, help="folder to make")
    parser.add_argument("--sounds", required=True, help="folder of the recordings")
    parser.add_argument("--transcripts", required=True, help="`name: text` lines, plain or .gz")
    parser.add_argument("--english", nargs="+", required=True, help="English text files")
    parser.add_argument("--num-domain", type=int, default=Counts.domain, help="synthetic clips")
    parser.add_argument("--num-english", type=int, default=Counts.english, help="synthetic clips")
    parser.add_argument("--seed", type=int, default=0, help="of the split and all draws (0)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    run_command(main)
