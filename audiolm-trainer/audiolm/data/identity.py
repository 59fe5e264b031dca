"""When two annotation entries are the same: stable 64-bit keys of clips, texts and groups.

In: entries as they are in the file. Out: integers that are equal for equal things on every machine
and in every run, so that draws and comparisons made with them repeat.
"""

import hashlib
import posixpath
import re
import unicodedata

from audiolm.data.entries import Entry

_NO_WORD = re.compile(r"[\W_]+")


def hash_parts(*parts: object) -> int:
    """A signed 64-bit number from some texts or numbers (as numpy's int64 holds it)."""
    text = "\0".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def draw_fraction(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts alone."""
    return (hash_parts(seed, *parts) + 2**63) / 2**64


def clean_path(path: str) -> str:
    """The path as it is below its prefix: `/x/./a.wav` and `x/a.wav` are the same."""
    return posixpath.normpath(path.lstrip("/"))


def list_texts(entry: Entry) -> list[str]:
    """The reference texts; [] when there is none."""
    text = entry.get("text")
    return [] if text is None else [text] if isinstance(text, str) else list(text)


def compute_clip_key(entry: Entry) -> int:
    """Equal for entries about the same audio: file, part of it, what is appended."""
    offset = entry.get("offset")
    span = () if offset is None else (float(offset), _seconds(entry))
    extra = [clean_path(path) for path in entry.get("expand_wav") or ()]
    return hash_parts(clean_path(entry["path"]), *span, *extra)


def compute_question_key(entry: Entry) -> int:
    """Equal for entries that ask the same of the same audio."""
    return hash_parts(compute_clip_key(entry), entry.get("task") or "asr", entry.get("Q") or "")


def compute_entry_key(entry: Entry) -> int:
    """Equal for entries that also have the same texts."""
    return hash_parts(compute_question_key(entry), *list_texts(entry))


def normalise_text(text: str) -> str:
    """Letters and digits in lower case, one space between words: to compare, not to score."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    return " ".join(_NO_WORD.sub(" ", folded).split())


def _seconds(entry: Entry) -> float:
    return float(entry.get("duration") or entry.get("seconds") or 0.0)
