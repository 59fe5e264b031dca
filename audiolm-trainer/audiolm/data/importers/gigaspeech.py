"""GigaSpeech: GigaSpeech.json, whose segments are spans of long opus files.

    {"audios": [{"aid", "path": "audio/podcast/P0000/POD0000000001.opus", "subsets": ["{XL}"],
                 "segments": [{"sid", "begin_time", "end_time", "text_tn", "subsets": ["{XL}"]}]}]}

Texts are capitals with spoken punctuation (`<COMMA>`); segments that are only `<SIL>`, `<MUSIC>`,
`<NOISE>` or `<OTHER>` are no speech. The file has gigabytes and is read audio by audio.
Source: https://github.com/SpeechColab/GigaSpeech
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiolm.data.entries import Entry
from audiolm.data.importers.sources import ImportOptions, LayoutError, describe_source
from audiolm.data.json_stream import iterate_json_list
from audiolm.errors import UserError

LAYOUT = "GigaSpeech.json with audios and their segments, and the folder audio/ beside it"
FILE_NAME = "GigaSpeech.json"
PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
GARBAGE = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})
TEST_PARTS = frozenset({"DEV", "TEST"})
_TAG = re.compile(r"<[A-Z]+>")


def recognises(source: Path) -> bool:
    """Whether it is, or holds, a GigaSpeech.json."""
    return source.name == FILE_NAME or (source / FILE_NAME).is_file()


def read(source: Path, options: ImportOptions) -> Iterator[Entry]:
    """Entries of all segments of the wanted subsets (`XS`, ..., `XL`, `DEV`, `TEST`).

    Without a choice: all but DEV and TEST, which are not for training.
    """
    path = source / FILE_NAME if source.is_dir() else source
    if not path.is_file():
        raise LayoutError(
            f"{source} holds no GigaSpeech: expected {LAYOUT}; found {describe_source(source)}"
        )
    audio_dir = options.audio_dir or path.parent
    wanted = {part.strip("{}").upper() for part in options.parts}
    for number, audio in enumerate(iterate_json_list(path, "audios", "GigaSpeech metadata")):
        try:
            yield from _read_audio(audio, audio_dir, wanted, options)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LayoutError(
                f"{path}: audios[{number}] is not as expected ({type(error).__name__}: {error}); "
                "an audio has path and segments; a segment sid, begin_time, end_time, text_tn"
            ) from error


def clean_text(text: str, options: ImportOptions) -> str:
    """The words alone (or with marks), in lower case; "" for a segment without speech.

    Raises:
        UserError: a tag that GigaSpeech does not have.
    """
    words: list[str] = []
    for word in text.split():
        if word in PUNCTUATION:
            if options.keeps_punctuation and words:
                words[-1] += PUNCTUATION[word]
        elif word in GARBAGE:
            continue
        elif _TAG.fullmatch(word):
            raise UserError(f"unknown tag {word} in GigaSpeech text {text!r}")
        else:
            words.append(word if options.keeps_case else word.lower())
    return " ".join(words)


def _read_audio(
    audio: dict[str, Any], audio_dir: Path, wanted: set[str], options: ImportOptions
) -> Iterator[Entry]:
    path = str(audio_dir / audio["path"].lstrip("/"))
    for segment in audio["segments"]:
        subsets = {name.strip("{}") for name in segment.get("subsets") or audio.get("subsets", [])}
        if not (subsets & wanted if wanted else subsets - TEST_PARTS or not subsets):
            continue
        text = clean_text(segment["text_tn"], options)
        if not text:
            options.skip("segments without speech (<SIL>, <MUSIC>, <NOISE>, <OTHER>)")
            continue
        begin, end = float(segment["begin_time"]), float(segment["end_time"])
        if not 0 <= begin < end:
            raise ValueError(f"segment {segment['sid']} runs from {begin} to {end}")
        yield {
            "path": path,
            "text": text,
            "offset": begin,
            "duration": round(end - begin, 4),
            "corpus": "gigaspeech",
            "sid": segment["sid"],
        }
