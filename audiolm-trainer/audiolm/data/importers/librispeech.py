"""LibriSpeech: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside the chapter's flac files.

A transcript line is an utterance's name and its text in capitals:
`1089-134686-0000 HE HOPED THERE WOULD BE STEW`. MLS and others with the same layout work as well.
Source: https://www.openslr.org/12
"""

import os
from collections.abc import Iterator
from pathlib import Path

from audiolm.data.entries import Entry
from audiolm.data.importers.sources import (
    AUDIO_SUFFIXES,
    ImportOptions,
    LayoutError,
    describe_source,
)
from audiolm.errors import UserError

LAYOUT = "SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with SPEAKER-CHAPTER-NNNN.flac beside it"
TRANSCRIPT_SUFFIX = ".trans.txt"
MAX_DEPTH = 5  # LibriSpeech's folder within the one that is given, and its four levels


def recognises(source: Path) -> bool:
    """Whether there is a transcript somewhere near the top."""
    patterns = ("*/" * depth + f"*{TRANSCRIPT_SUFFIX}" for depth in range(MAX_DEPTH))
    return source.is_dir() and any(True for pattern in patterns for _ in source.glob(pattern))


def read(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """Entries of all chapters, subset by subset."""
    subsets = {find_subset(path, source) for path in iterate_transcripts(source)}
    if not subsets:
        raise LayoutError(
            f"{source} holds no LibriSpeech: expected {LAYOUT}; found {describe_source(source)}"
        )
    unknown = set(options.parts) - subsets
    if unknown:
        raise UserError(
            f"{source} has no part {', '.join(sorted(unknown))}; "
            f"there are {', '.join(sorted(subsets))}"
        )
    for path in iterate_transcripts(source):
        subset = find_subset(path, source)
        if not options.parts or subset in options.parts:
            yield from _read_chapter(path, subset, options)


def iterate_transcripts(source: Path) -> Iterator[Path]:
    """Every transcript below a folder, in the order of their paths."""
    for parent, folders, names in os.walk(source):
        folders.sort()
        yield from (
            Path(parent, name) for name in sorted(names) if name.endswith(TRANSCRIPT_SUFFIX)
        )


def find_subset(transcript: Path, source: Path) -> str:
    """`train-clean-100` of `.../train-clean-100/19/198/19-198.trans.txt`."""
    below = transcript.relative_to(source).parts[:-3]
    return below[-1] if below else source.resolve().name


def _read_chapter(path: Path, subset: str, options: ImportOptions) -> Iterator[Entry]:
    audio = {
        file.stem: file for file in path.parent.iterdir() if file.suffix.lower() in AUDIO_SUFFIXES
    }
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        if not text:
            raise UserError(f"{path}: line {number} is {line!r}; expected NAME TEXT")
        yield {
            "path": str(audio.pop(name, path.with_name(f"{name}.flac"))),
            "text": text if options.keeps_case else text.lower(),
            "corpus": "librispeech",
            "subset": subset,
            "speaker": name.split("-")[0],
        }
    for _ in audio:
        options.skip("audio without a transcript")
