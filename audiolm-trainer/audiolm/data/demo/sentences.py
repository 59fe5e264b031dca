"""Sentences of the demo corpus, from a small grammar of commands, numbers, times and places.

Out: lower-case texts without punctuation, number words spelt out, 2 to 7 words of a vocabulary of
about 60. Homophones of number words ("to", "for", "won") are left out, so that what is heard
decides what is written.
"""

import functools
import math

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SLOTS: dict[str, tuple[str, ...]] = {
    "digit": DIGITS,
    "unit": DIGITS[1:],
    "hour": (*DIGITS[1:], "ten"),
    "minute": ("ten", "twenty", "thirty"),
    "tens": ("twenty", "thirty"),
    "device": ("lamp", "radio", "heater"),
    "shutter": ("window", "curtain"),
    "room": ("kitchen", "garden", "office", "bedroom"),
    "place": ("station", "airport", "market", "library", "hospital"),
    "day": ("today", "tomorrow", "friday", "sunday"),
    "part": ("morning", "evening"),
    "person": ("peter", "maria", "robert"),
    "switch": ("on", "off"),
    "move": ("open", "close"),
    "travel": ("walk", "drive"),
    "side": ("left", "right"),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "command": (
        "turn {switch} the {device}",
        "turn {switch} the {room} {device}",
        "turn {switch} the {device} at {hour}",
        "turn {switch} the {room} {device} {day}",
        "{move} the {shutter}",
        "{move} the {room} {shutter}",
        "{move} the {shutter} at {hour} {minute}",
        "{move} the {room} {shutter} at {hour}",
        "play music {day}",
        "play music in the {room}",
        "play the radio in the {room}",
        "stop the music at {hour} {minute}",
        "stop the {room} {device}",
        "call {person}",
        "call {person} {day}",
        "call {person} at {hour}",
        "call {person} {day} at {hour} {minute}",
    ),
    "number": (
        "{digit} {digit}",
        "{digit} {digit} {digit}",
        "{digit} {digit} {digit} {digit}",
        "{tens} {unit}",
        "number {digit} {digit}",
        "number {digit} {digit} {digit}",
        "call number {digit} {digit} {digit} {digit}",
    ),
    "time": (
        "{hour} {minute}",
        "{day} at {hour}",
        "{day} at {hour} {minute}",
        "{hour} {minute} in the {part}",
        "{day} at {hour} in the {part}",
        "wait {minute} minutes",
        "wait {tens} {unit} minutes",
        "wake me {day} at {hour}",
        "wake me at {hour} {minute}",
        "wake me at {hour} in the {part}",
    ),
    "place": (
        "{travel} past the {place}",
        "{travel} past the {place} {day}",
        "{travel} past the {place} and the {place}",
        "turn {side}",
        "turn {side} near the {place}",
        "turn {side} and {travel} past the {place}",
        "meet me near the {place}",
        "meet {person} near the {place}",
        "meet me near the {place} at {hour}",
        "the {place} is near the {place}",
        "{person} is in the {room}",
        "{person} is near the {place}",
    ),
}

# Heard only inside sentences: said alone they are unclear.
_UNSTRESSED = frozenset({"the", "at", "in", "is", "and"})


def list_vocabulary() -> list[str]:
    """All words of the grammar, sorted."""
    words = {word for choices in SLOTS.values() for word in choices}
    for group in TEMPLATES.values():
        for template in group:
            words.update(word for word in template.split() if not word.startswith("{"))
    return sorted(words)


def list_single_words() -> list[str]:
    """The words that make sense said alone, sorted."""
    return [word for word in list_vocabulary() if word not in _UNSTRESSED]


def draw_sentence(rng: np.random.Generator, *, max_words: int = 7) -> str:
    """A random sentence of 2 to `max_words` words (at least 2).

    Groups are equally likely; inside a group, templates with more fillings are likelier.
    """
    groups = list(TEMPLATES)
    while True:
        group = groups[rng.integers(len(groups))]
        number = np.searchsorted(_cumulate_weights(group), rng.random(), side="right")
        words = TEMPLATES[group][number].split()
        if len(words) <= max_words:
            return " ".join(_fill(words, rng))


@functools.cache
def _cumulate_weights(group: str) -> np.ndarray:
    """Upper ends, within 0..1, of the ranges that choose each template of the group."""
    weights = np.sqrt([_count_fillings(template) for template in TEMPLATES[group]])
    ends = np.cumsum(weights)
    return ends / ends[-1]


def _count_fillings(template: str) -> int:
    slots = [word.strip("{}") for word in template.split() if word.startswith("{")]
    return math.prod(min(len(SLOTS[slot]), 12) for slot in slots) if slots else 1


def _fill(words: list[str], rng: np.random.Generator) -> list[str]:
    filled: list[str] = []
    for word in words:
        if not word.startswith("{"):
            filled.append(word)
            continue
        slot = word.strip("{}")
        # A digit may come again, a place or a person may not.
        choices = [c for c in SLOTS[slot] if slot == "digit" or c not in filled]
        filled.append(choices[rng.integers(len(choices))])
    return filled
