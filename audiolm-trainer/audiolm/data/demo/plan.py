"""What the demo corpus consists of: every clip's text, voice or scene, decided before any sound.

In: `CorpusOptions`. Out: lists of `SpeechClip`s and `SceneClip`s. The splits share no sentence of
two or more words and no scene of several events (same events in the same layout), and the test
voices speak nowhere else.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from audiolm.data.demo import sentences
from audiolm.data.demo.scenes import Scene, draw_scene, write_captions
from audiolm.data.demo.speech import TEST_SPEAKERS, TRAIN_SPEAKERS, Voice, list_voices
from audiolm.errors import UserError

# Parts of the training speech, as shares of `num_speech`, from easy to hard: a model without any
# pretraining learns ten digits quickly, and from there the other words; all at once it does not.
DIGITS_SHARE, WORDS_SHARE, SHORT_SHARE = 0.07, 0.14, 0.2  # the rest is whole sentences
_SINGLE_SHARE = 0.7  # single words among "one and two words"

MIN_SPEECH = 10  # so that every part has a clip

# Held-out sentences and scenes are kept from training: more would leave it too few.
MAX_HELD_OUT_SPEECH = 600
MAX_HELD_OUT_SCENES = 400


@dataclass(frozen=True)
class CorpusOptions:
    """All that a demo corpus depends on: a seed (0 or more) and the number of clips per part."""

    seed: int = 0
    num_speech: int = 9000  # training utterances
    num_scenes: int = 2500  # training scenes
    num_valid_speech: int = 100
    num_valid_scenes: int = 60
    num_test_speech: int = 200
    num_test_scenes: int = 150

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = {"seed": 0, "num_speech": MIN_SPEECH}.get(name, 1)
            if value < least:
                raise UserError(f"{name} is {value}: it must be at least {least}")
        for what, held_out, limit in (
            ("speech", self.num_valid_speech + self.num_test_speech, MAX_HELD_OUT_SPEECH),
            ("scenes", self.num_valid_scenes + self.num_test_scenes, MAX_HELD_OUT_SCENES),
        ):
            if held_out > limit:
                raise UserError(
                    f"num_valid_{what} and num_test_{what} add up to {held_out}: "
                    f"at most {limit}, or too few would be left for training"
                )


@dataclass(frozen=True)
class SpeechClip:
    """One utterance to synthesise."""

    path: str  # in the corpus folder
    split: str  # "train", "valid" or "test"
    part: str  # of the training speech: "digits", "words", "short" or "full"
    text: str
    voice: Voice
    words_per_minute: int
    pitch: int

    @property
    def texts(self) -> list[str]:
        return [self.text]


@dataclass(frozen=True)
class SceneClip:
    """One sound scene to synthesise."""

    path: str
    split: str
    scene: Scene

    @property
    def texts(self) -> list[str]:
        return write_captions(self.scene)


def plan_speech(options: CorpusOptions) -> list[SpeechClip]:
    """All utterances: test, then valid, then train."""
    rng = np.random.default_rng([options.seed, 1])
    test = _draw_distinct_sentences(rng, options.num_test_speech, ())
    valid = _draw_distinct_sentences(rng, options.num_valid_speech, test)
    train = _draw_train_texts(rng, options.num_speech, frozenset((*test, *valid)))
    train_voices, test_voices = list_voices(TRAIN_SPEAKERS), list_voices(TEST_SPEAKERS)
    return [
        *_cast_voices(rng, "test", [("full", text) for text in test], test_voices),
        *_cast_voices(rng, "valid", [("full", text) for text in valid], train_voices),
        *_cast_voices(rng, "train", train, train_voices),
    ]


def plan_scenes(options: CorpusOptions) -> list[SceneClip]:
    """All sound scenes: test, then valid, then train."""
    rng = np.random.default_rng([options.seed, 2])
    test = [draw_scene(rng) for _ in range(options.num_test_scenes)]
    valid = [_draw_scene(rng, frozenset(test)) for _ in range(options.num_valid_scenes)]
    held_out = frozenset((*test, *valid))
    train = [_draw_scene(rng, held_out) for _ in range(options.num_scenes)]
    return [
        SceneClip(f"audio/scenes/{split}_{number:05d}.wav", split, scene)
        for split, scenes in (("test", test), ("valid", valid), ("train", train))
        for number, scene in enumerate(scenes)
    ]


def _draw_train_texts(
    rng: np.random.Generator, num_speech: int, taken: Collection[str]
) -> list[tuple[str, str]]:
    """Part and text of every training utterance. Single words come equally often."""
    num_digits = round(num_speech * DIGITS_SHARE)
    num_words = round(num_speech * WORDS_SHARE)
    num_singles = round(num_words * _SINGLE_SHARE)
    num_short = round(num_speech * SHORT_SHARE)
    num_full = num_speech - num_digits - num_words - num_short
    digits, words = sentences.DIGITS, sentences.list_single_words()

    def draw(part: str, count: int, max_words: int) -> list[tuple[str, str]]:
        return [(part, _draw_sentence(rng, taken, max_words=max_words)) for _ in range(count)]

    return [
        *(("digits", digits[number % len(digits)]) for number in range(num_digits)),
        *(("words", words[number % len(words)]) for number in range(num_singles)),
        *draw("words", num_words - num_singles, max_words=2),
        *draw("short", num_short, max_words=4),
        *draw("full", num_full, max_words=7),
    ]


def _cast_voices(
    rng: np.random.Generator, split: str, texts: Sequence[tuple[str, str]], voices: list[Voice]
) -> list[SpeechClip]:
    """Give every (part, text) a voice, a speed and a pitch."""
    return [
        SpeechClip(
            path=f"audio/speech/{split}_{number:05d}.wav",
            split=split,
            part=part,
            text=text,
            voice=voices[rng.integers(len(voices))],
            words_per_minute=int(rng.integers(125, 181)),
            pitch=int(rng.integers(30, 76)),
        )
        for number, (part, text) in enumerate(texts)
    ]


def _draw_distinct_sentences(
    rng: np.random.Generator, count: int, taken: Collection[str]
) -> list[str]:
    drawn: dict[str, None] = {}  # a set that keeps its order
    while len(drawn) < count:
        drawn[_draw_sentence(rng, taken, max_words=7)] = None
    return list(drawn)


def _draw_sentence(rng: np.random.Generator, taken: Collection[str], *, max_words: int) -> str:
    while (sentence := sentences.draw_sentence(rng, max_words=max_words)) in taken:
        pass
    return sentence


def _draw_scene(rng: np.random.Generator, taken: Collection[Scene]) -> Scene:
    """A scene that is not among `taken`; there are too few single events to keep any apart."""
    scene = draw_scene(rng)
    while scene.layout != "single" and scene in taken:
        scene = draw_scene(rng)
    return scene
