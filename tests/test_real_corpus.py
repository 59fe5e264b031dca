"""The texts and sequences of the real run's corpus (scripts/make_real_corpus.py)."""

import numpy as np
import pytest

from scripts.real_corpus import texts


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        ("Press 1, or the # key.", "press one or the pound key"),
        ("[beep] Good-bye", "good bye"),
        ("At 5 p.m.", "at five p m"),
        ("[a tone]", ""),
        ("Extension 700", ""),
    ],
)
def test_transcripts_are_spelled_out_as_they_are_spoken(transcript: str, words: str) -> None:
    assert texts.spell_out(transcript) == words


def test_english_pieces_cover_rare_words_and_hold_no_held_out_sentence() -> None:
    english = ["the cat sat on the mat", *["the dog ran to the park"] * 50, "a cat is on a mat"]
    drawn = texts.draw_english_texts(np.random.default_rng(0), english, {"the mat"}, 200)
    assert all(2 <= len(text.split()) <= 8 for text in drawn)
    assert all(any(text in sentence for sentence in english) for text in drawn)
    assert not [text for text in drawn if "the mat" in text]
    assert sum("cat" in text.split() for text in drawn) > 20  # 2 of 52 sentences have it


def test_a_piece_is_around_its_word() -> None:
    rng = np.random.default_rng(0)
    words = "one two three four five"
    pieces = {texts.draw_piece(rng, words, 3, "five") for _ in range(100)}
    assert pieces == {"five", "four five", "three four five"}
    assert texts.draw_piece(rng, "one two", 5) in {"one", "two", "one two"}
