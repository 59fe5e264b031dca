"""Make the corpus of the real run: recorded telephone prompts and synthetic speech.

    python scripts/make_real_corpus.py -o real/corpus \
        --sounds /usr/share/asterisk/sounds/en_US_f_Allison \
        --transcripts /usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz \
        --english /usr/share/games/fortunes/{wisdom,people,work} --flite flite

The recordings and their transcripts are Debian's packages asterisk-core-sounds-en-wav and
asterisk-core-sounds-en (one speaker, 8 kHz); `--english` is any English text; `--flite` is the
command of the package flite: with it, every other synthetic clip has a voice made of recordings.
Written are:

    train_recorded.json     recordings, and copies of them (speed, noise)
    train_joined.json       recordings joined to new sequences
    train_long.json         recordings and synthetic speech joined to sequences of 8 to 22 s
    train_synthetic.json    synthetic speech
    train_unread.json       more of it, for a second stage whose connector never heard it
    valid.json, test.json   recordings whose sentence is nowhere in training
    audio/                  everything at 8 kHz: recorded/, changed/, synthetic/

Sentences of two words or more are dealt out to train, valid and test by a hash of their words;
single words are for training. Synthetic texts are pieces of training sentences and of the English
texts; one that contains a whole held-out sentence is thrown away.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.audio.loading import MAX_SECONDS, load_waveform
from audiolm.data.outputs import whole_folder
from audiolm.data.splitting import choose_part
from audiolm.errors import UserError, run_command
from scripts.real_corpus.speech import synthesize, write_telephone
from scripts.real_corpus.texts import (
    draw_domain_texts,
    draw_english_texts,
    is_allowed,
    read_english,
    read_transcripts,
)

FRACTIONS = {"test": 0.24, "valid": 0.2}  # of the sentences of two words or more
MAX_TRAIN_SECONDS = 16.0  # a longer clip costs a training step more than it teaches
UNREAD_SHARE = 6  # one synthetic clip in so many is kept from the first stage

Entry = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """Training clips to make beside the recordings themselves."""

    copies: int = 2  # of each recording, with another speed and noise
    joined: int = 1500  # sequences of two to four recordings
    long: int = 480  # sequences of 8 to 22 s
    domain: int = 5000  # synthetic, of pieces of training sentences
    english: int = 4000  # synthetic, of pieces of the English texts


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, write the corpus, say what is in it."""
    options = build_parser().parse_args(arguments)
    recordings = list_recordings(Path(options.sounds), Path(options.transcripts))
    english = [piece for path in options.english for piece in read_english(Path(path))]
    if not english:
        raise UserError(f"--english: no sentence found in {', '.join(options.english)}")
    with whole_folder(options.output, overwrite=False, sources=[]) as folder:
        counts = Counts(domain=options.num_domain, english=options.num_english)
        parts = build_parts(folder, recordings, english, counts, options.flite, options.seed)
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


def build_parts(
    folder: Path,
    recordings: list[Entry],
    english: list[str],
    counts: Counts,
    flite: str,
    seed: int,
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
    parts["train_joined"] = join_recordings(rng, parts["train_recorded"], held_out, counts.joined)
    order = rng.permutation(len(texts))
    synthetic = synthesize(folder, rng, [texts[int(i)] for i in order], flite, seed)
    first = len(synthetic) // UNREAD_SHARE
    parts["train_synthetic"], parts["train_unread"] = synthetic[first:], synthetic[:first]
    sources = (parts["train_recorded"], parts["train_synthetic"])
    parts["train_long"] = join_long(seed, sources, held_out, counts.long)
    return parts


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
        joined = join(chosen, "joined")
        if is_allowed(joined["text"], held_out):
            entries.append(joined)
    return entries


def join_long(
    seed: int, sources: Sequence[Sequence[Entry]], held_out: set[str], count: int
) -> list[Entry]:
    """Sequences of 8 to 22 s, about as many pieces from each source: prompts may be that long, and
    hardly a training clip is."""
    rng = np.random.default_rng([seed, 1])
    entries: list[Entry] = []
    while len(entries) < count:
        least = float(rng.uniform(8, 20))
        chosen: list[Entry] = []
        while not chosen or join(chosen, "long")["duration"] < least:
            source = sources[int(rng.integers(len(sources)))]
            chosen.append(source[int(rng.integers(len(source)))])
        joined = join(chosen, "long")
        if joined["duration"] <= 22 and is_allowed(joined["text"], held_out):
            entries.append(joined)
    return entries


def join(chosen: Sequence[Entry], kind: str) -> Entry:
    """Clips behind one another, as `expand_wav` joins them, with 0.1 s between."""
    first, *others = (entry["path"] for entry in chosen)
    text = " ".join(entry["text"] for entry in chosen)
    seconds = sum(entry["duration"] for entry in chosen) + 0.1 * (len(chosen) - 1)
    return {"path": first, "expand_wav": others, "text": text, "task": "asr", "kind": kind,
            "duration": seconds}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, help="folder to make")
    parser.add_argument("--sounds", required=True, help="folder of the recordings")
    parser.add_argument("--transcripts", required=True, help="`name: text` lines, plain or .gz")
    parser.add_argument("--english", nargs="+", required=True, help="English text files")
    parser.add_argument("--flite", default="", help="command of flite; without: espeak-ng alone")
    parser.add_argument("--num-domain", type=int, default=Counts.domain, help="synthetic clips")
    parser.add_argument("--num-english", type=int, default=Counts.english, help="synthetic clips")
    parser.add_argument("--seed", type=int, default=0, help="of the split and all draws (0)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    run_command(main)
