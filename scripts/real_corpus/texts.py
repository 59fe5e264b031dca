"""Texts of the real run's corpus: transcripts as words, and what synthetic speech says.

In: the recordings' transcripts and English text files. Out: lower-case words without punctuation.
Used by `make_real_corpus.py`.
"""

import gzip
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {"*": " star ", "#": " pound ", "-": " "}
NOT_SPOKEN = re.compile(r"[\[(<][^\])>]*[\])>]")  # remarks in brackets
WORD = re.compile(r"[a-z']+")
ENGLISH_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")  # without quotation marks around it
MIN_WORD_COUNT = 2  # in the English texts; what stands there once may be a slip of the pen


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
    runs = (ENGLISH_WORD.findall(piece) for piece in pieces)
    return [" ".join(words) for words in runs if len(words) >= 3]


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
    """Two to eight words of one English sentence, around a word drawn from all there are with
    equal odds: rare words come up as often as common ones ask for them."""
    counts = Counter(word for sentence in english for word in sentence.split())
    places: dict[str, list[int]] = {w: [] for w, n in counts.items() if n >= MIN_WORD_COUNT}
    for number, sentence in enumerate(english):
        for word in set(sentence.split()) & places.keys():
            places[word].append(number)
    vocabulary = sorted(places)
    texts: list[str] = []
    while len(texts) < count:
        word = vocabulary[int(rng.integers(len(vocabulary)))]
        sentence = english[places[word][int(rng.integers(len(places[word])))]]
        text = draw_piece(rng, sentence, 8, word)
        if len(text.split()) >= 2 and is_allowed(text, held_out):
            texts.append(text)
    return texts


def draw_piece(rng: np.random.Generator, text: str, most: int, around: str = "") -> str:
    """One to `most` words of a text that stand together; `around`: a word that is among them."""
    words = text.split()
    length = min(int(rng.integers(1, most + 1)), len(words))
    first, last = 0, len(words) - length
    if around:
        place = words.index(around)
        first, last = max(place - length + 1, 0), min(place, last)
    start = int(rng.integers(first, last + 1))
    return " ".join(words[start : start + length])


def is_allowed(text: str, held_out: set[str]) -> bool:
    """Whether no held-out sentence stands in the text as a whole."""
    return not any(f" {sentence} " in f" {text} " for sentence in held_out)
