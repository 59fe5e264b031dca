"""What the demo corpus consists of: every clip's text, voice or scene, decided before any sound.

In: `CorpusOptions`. Out: lists of `SpeechClip`s and `SceneClip`s. The splits share no sentence of
two or more words and no scene of several events (same events in the same layout), and the test
voices speak nowhere else.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from audiolm.data.demo import sentences
from audiolm.data.demo.scenes import Scene, draw_scene, write_captions
from audiolm.data.demo.speech import TEST_SPEAKERS, TRAIN_SPEAKERS, Voice, list_voices
from audiolm.errors import UserError

# Parts of the training speech, of `num_speech`; the rest is sentences of two to seven words.
WORDS_SHARE, SHORT_SHARE = 0.3, 0.25
_SINGLE_SHARE = 0.8  # single words among "one and two words"

# Held-out sentences and scenes are kept from training: more would leave it too few.
MAX_HELD_OUT_SPEECH = 600
MAX_HELD_OUT_SCENES = 400


@dataclass(frozen=True)
class CorpusOptions:
    """All that a demo corpus depends on: a seed (0 or more) and the number of clips per part."""

    seed: int = 0
    num_speech: int = 6000  # training utterances
    num_scenes: int = 2500  # training scenes
    num_valid_speech: int = 100
    num_valid_scenes: int = 60
    num_test_speech: int = 200
    num_test_scenes: int = 150

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "seed" else 1
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
    part: str  # of the training speech: "words", "short" or "full"
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
    held_out = frozenset((*test, *valid))
    num_words = round(options.num_speech * WORDS_SHARE)
    num_short = round(options.num_speech * SHORT_SHARE)
    words = sentences.list_single_words()
    train: list[tuple[str, str]] = []
    for number in range(options.num_speech):
        if number < num_words * _SINGLE_SHARE:
            train.append(("words", words[number % len(words)]))
        elif number < num_words:
            train.append(("words", _draw_sentence(rng, held_out, max_words=2)))
        elif number < num_words + num_short:
            train.append(("short", _draw_sentence(rng, held_out, max_words=4)))
        else:
            train.append(("full", _draw_sentence(rng, held_out, max_words=7)))
    drafts = [
        *(("test", "full", text) for text in test),
        *(("valid", "full", text) for text in valid),
        *(("train", part, text) for part, text in train),
    ]
    voices = {
        "train": list_voices(TRAIN_SPEAKERS),
        "valid": list_voices(TRAIN_SPEAKERS),
        "test": list_voices(TEST_SPEAKERS),
    }
    numbers = dict.fromkeys(voices, 0)
    clips = []
    for split, part, text in drafts:
        choices = voices[split]
        clip = SpeechClip(
            path=f"audio/speech/{split}_{numbers[split]:05d}.wav",
            split=split,
            part=part,
            text=text,
            voice=choices[rng.integers(len(choices))],
            words_per_minute=int(rng.integers(125, 181)),
            pitch=int(rng.integers(30, 76)),
        )
        numbers[split] += 1
        clips.append(clip)
    return clips


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
