"""The kinds of problems that clips have, and how bad each is."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]

SILENT_PEAK = 1e-3  # of full scale: -60 dB
CLIPPED_LEVEL = 0.999
CLIPPED_FRACTION = 1e-3  # of the samples
DURATION_SLACK_SECONDS = 0.5
USUAL_RATES_HZ = (
    16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000, 176_400, 192_000,
)  # fmt: skip

# An error makes a clip useless or harmful; a warning is worth knowing.
SEVERITIES: dict[str, tuple[Severity, str]] = {
    "entry": ("error", "the entry is malformed"),
    "prefix": ("error", "the path leads out of the prefix"),
    "missing": ("error", "no audio file"),
    "unreadable": ("error", "cannot be decoded, or is cut short"),
    "empty": ("error", "no samples"),
    "non_finite": ("error", "NaN or infinite samples"),
    "outside": ("error", "offset and duration are not in the file"),
    "silent": ("error", "peak below -60 dB"),
    "no_text": ("error", "no text"),
    "empty_text": ("error", "an empty text"),
    "special_token": ("error", "a text holds a model's special token"),
    "duplicate_id": ("error", "the testset_id, or the whole entry, occurs before"),
    "duplicate_audio": ("warning", "another file with the same samples occurs before"),
    "clipped": ("warning", "0.1 % of the samples at full scale"),
    "short": ("warning", "under 1 s; padded"),
    "long": ("warning", "over 30 s; cut or refused by datasets.long_audio"),
    "rate": ("warning", "an unusual rate, or one below 16 kHz"),
    "channels": ("warning", "several channels; averaged"),
    "duration": ("warning", "the annotated length is 0.5 s off or more"),
    "text_form": ("warning", "a text is unnormalised"),
}
AUDIO_PROBLEMS = ("missing", "unreadable", "empty", "non_finite", "outside")


class Problem(NamedTuple):
    """One thing that is wrong with a clip."""

    kind: str  # a key of SEVERITIES
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What came of looking at one clip.

    Attributes:
        index: position in the annotation.
        problems: what is wrong with it alone, without looking at others.
        fingerprint: hash of the samples; 0 when they could not be read or are silent.
        seconds: length; 0 when unknown.
        rate_hz, num_channels: of its (first) file; 0 when unknown.
    """

    index: int
    problems: tuple[Problem, ...]
    fingerprint: int = 0
    seconds: float = 0.0
    rate_hz: int = 0
    num_channels: int = 0
