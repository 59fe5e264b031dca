"""What can be wrong with a reference text."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from audiolm.data.checking.problems import Problem

SPECIAL_TOKEN = re.compile(
    r"<\|[^<>|]*\|>"  # <|eot_id|>, <|im_end|>
    r"|</?(?:s|unk|pad|bos|eos|mask|speech|speechhere|start_of_turn|end_of_turn)>"
    r"|\[/?(?:pad|unk|cls|sep|mask|inst)\]|<</?sys>>",
    re.IGNORECASE,
)
CORPUS_TAG = re.compile(r"<[A-Z_]{2,}>|\{[A-Z_]+\}")  # <COMMA>, <SIL>
HTML_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d+|#x[0-9a-f]+);", re.IGNORECASE)
MIN_CAPITALS = 4  # letters: "OK" and "TV" are no shouting


def find_text_problems(texts: Sequence[str], task: str) -> Iterator[Problem]:
    """The problems of an entry's texts; at most one of a kind for each text."""
    if not texts:
        yield Problem("no_text")
    for text in texts:
        if not text.strip():
            yield Problem("empty_text")
            continue
        special = SPECIAL_TOKEN.search(text)
        if special:
            yield Problem("special_token", special[0])
        form = _find_form_problem(text, task)
        if form:
            yield Problem("text_form", form)


def _find_form_problem(text: str, task: str) -> str:
    tag = CORPUS_TAG.search(text)
    entity = HTML_ENTITY.search(text)
    if tag:
        return f"corpus mark-up {tag[0]}"
    if entity:
        return f"HTML entity {entity[0]}"
    if "\ufffd" in text:
        return "replacement character (lost in another encoding)"
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in text):
        return "control character"
    if text != " ".join(text.split()):
        return "outer, doubled or unusual white space"
    if not unicodedata.is_normalized("NFC", text):
        return "not in Unicode NFC"
    num_letters = sum(character.isalpha() for character in text)
    if task.startswith("asr") and num_letters >= MIN_CAPITALS and text.isupper():
        return "all capitals"
    return ""
