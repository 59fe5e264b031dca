"""`result.md`: the scores of an evaluation and what they are, to read and to paste.

In: the content of `result.json` and its groups. Out: Markdown.
"""

from collections.abc import Sequence
from typing import Any

from audiolm.evaluation.intervals import LEVEL
from audiolm.evaluation.results import GroupResult
from audiolm.evaluation.wording import NAMES, describe_oddities, format_value

CARD_KEYS = (
    "mode", "command", "finished", "commit", "config_sha256", "seed", "annotation",
    "annotation_sha256", "num_clips", "rescored_from",
)  # fmt: skip
FACT_NAMES = {
    "vocabulary": "different words in the answers",
    "reference_vocabulary": "different words in the references",
    "unique_caption_share": "different answers, of all",
    "constant_caption": "best single caption for every clip",
    "constant_caption_cider_d": "its CIDEr-D, a floor",
    "human_cider_d": "CIDEr-D of people's captions, a ceiling",
}


def format_result(result: dict[str, Any], groups: Sequence[GroupResult]) -> str:
    """The whole page."""
    parts = [f"# {result['mode']}, {result['finished']}"]
    for group in groups:
        parts += [f"## {group.name} ({group.kind.name})", _format_scores(group)]
        parts += ["\n".join(f"- {line}" for line in describe_facts(group))]
        if len(group.bins) > 1:
            parts.append(_format_bins(group))
        if group.worst:
            parts += ["Most errors, reference over answer:", _format_worst(group)]
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    parts += ["## What ran", _format_card(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_facts(group: GroupResult) -> list[str]:
    """What has no interval, a line each."""
    lines = []
    if "substitutions" in group.counts:
        edits = ("substitutions", "deletions", "insertions")
        told = ", ".join(f"{group.counts[name]} {name}" for name in edits)
        lines.append(f"{told} in {group.counts['num_words']} words")
    lines += [
        f"{FACT_NAMES.get(name, name.replace('_', ' '))}: {_format_fact(value)}"
        for name, value in group.facts.items()
        if value is not None
    ]
    lines.append(f"{group.counts['num_empty']} empty answers")
    return [*lines, *describe_oddities(group), *(f"not computed: {note}" for note in group.notes)]


def _format_fact(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _format_scores(group: GroupResult) -> str:
    rows = [f"| score | value | {LEVEL:.0%} interval |", "|---|---|---|"]
    for name, figure in group.scores.items():
        low, high = ("-" if b is None else format_value(name, b) for b in (figure.low, figure.high))
        rows.append(f"| {NAMES[name]} | {format_value(name, figure.value)} | {low} to {high} |")
    return "\n".join(rows)


def _format_bins(group: GroupResult) -> str:
    name = group.primary
    rows = [f"| audio | clips | {NAMES[name]} | {LEVEL:.0%} interval |", "|---|---|---|---|"]
    for length_bin in group.bins:
        figure = length_bin.figure
        low, high = ("-" if b is None else format_value(name, b) for b in (figure.low, figure.high))
        rows.append(
            f"| {describe_bin(length_bin.start_seconds, length_bin.end_seconds)} "
            f"| {figure.num_clips} | {format_value(name, figure.value)} | {low} to {high} |"
        )
    return "\n".join(rows)


def _format_worst(group: GroupResult) -> str:
    blocks = [
        f"    {clip.id}: {clip.num_errors} errors\n      {clip.reference}\n      {clip.answer}"
        for clip in group.worst
    ]
    return "\n".join(blocks)


def describe_bin(start: float, end: float | None) -> str:
    """`5 to 10 s`."""
    return f"from {start:g} s" if end is None else f"{start:g} to {end:g} s"


def _format_card(result: dict[str, Any]) -> str:
    hardware = result["hardware"]
    rows = [f"- {key.replace('_', ' ')}: `{result[key]}`" for key in CARD_KEYS if key in result]
    for checkpoint in result.get("checkpoints", []):
        rows.append(f"- checkpoint: `{checkpoint['path']}`, SHA-256 `{checkpoint['sha256']}`")
    packages = {**hardware["packages"], **result["scorers"]}
    rows += [
        f"- hardware: {hardware['device_name']}, {hardware['num_processes']} process(es)",
        f"- packages: {', '.join(f'{name} {version}' for name, version in packages.items())}",
        f"- decoding: {result['audio_seconds']:.1f} s of audio in "
        f"{result['decoding_seconds']:.1f} s of process time",
    ]
    return "\n".join(rows)
