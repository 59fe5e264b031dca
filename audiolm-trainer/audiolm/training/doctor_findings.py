"""What a check of `training.doctor` finds: ok, a note, or a problem with its fix."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`mark` is ok, note (the run works without it) or problem; `text` is one line with the fix."""

    mark: str
    topic: str
    text: str


def ok(topic: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", topic, text)


def note(topic: str, text: str) -> Finding:
    """Worth knowing; the run works without it."""
    return Finding("note", topic, text)


def problem(topic: str, text: str) -> Finding:
    """Stops the run; the text says what to do."""
    return Finding("problem", topic, text)
