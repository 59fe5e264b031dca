"""The report's table of generated answers, each with its clip to listen to.

In: the records of `samples.json` and the run folder that holds their audio. Out: HTML with the
audio inside, as much of it as keeps the page light.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiolm.training.report.history import Record

MAX_CLIPS = 12
MAX_AUDIO_BYTES = 6 * 2**20  # of all clips, before base64 adds a third
AUDIO_TYPES = {
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
}


def draw_samples(samples: Sequence[Record], folder: Path) -> str:
    """A table of the first `MAX_CLIPS` samples; empty when there is none."""
    if not samples:
        return ""
    rows, room = [], MAX_AUDIO_BYTES
    for sample in samples[:MAX_CLIPS]:
        player, num_bytes = _embed_audio(sample.get("audio"), folder, room)
        room -= num_bytes
        rows.append(_draw_row(sample, player))
    shown = f"{len(rows)} of {len(samples)} clips" if len(samples) > len(rows) else ""
    return (
        f"<section><h2>Generated answers</h2>{f'<p>{shown}.</p>' if shown else ''}"
        '<table class="samples"><thead><tr><th>Clip</th><th>Prompt</th><th>Reference</th>'
        f"<th>Answer</th></tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _draw_row(sample: Record, player: str) -> str:
    references = sample.get("references")
    references = references if isinstance(references, list) else [references]
    step = sample.get("step")
    after = f" after {step:,} steps" if isinstance(step, int) else ""
    task = _escape(sample.get("task"))
    return (
        f'<tr><td><b class="id">{_escape(sample.get("id"))}</b>'
        f"<small>{task}{after}</small>{player}</td>"
        f'<td data-label="Prompt">{_escape(sample.get("prompt"))}</td>'
        f'<td data-label="Reference">{"<br>".join(_escape(text) for text in references)}</td>'
        f'<td data-label="Answer">{_escape(sample.get("hypothesis")) or "<i>(empty)</i>"}</td></tr>'
    )


def _embed_audio(name: Any, folder: Path, room: int) -> tuple[str, int]:
    """A player with the file inside, or what is the matter; and the bytes it takes of `room`."""
    if not isinstance(name, str) or not name:
        return "<small>no audio kept</small>", 0
    path = (folder / name).resolve()
    audio_type = AUDIO_TYPES.get(path.suffix.lower())
    if not path.is_relative_to(folder.resolve()) or audio_type is None:
        return f"<small>{_escape(name)}: not an audio file of this run</small>", 0
    if not path.is_file():
        return f"<small>{_escape(name)} is missing</small>", 0
    if path.stat().st_size > room:
        return f"<small>too large for this page: listen to {_escape(name)}</small>", 0
    audio = path.read_bytes()
    content = base64.b64encode(audio).decode("ascii")
    label = f"clip {_escape(Path(name).name)}"
    source = f"data:{audio_type};base64,{content}"
    return f'<audio controls preload="metadata" aria-label="{label}" src="{source}"></audio>', len(
        audio
    )


def _escape(value: Any) -> str:
    return html.escape(str(value)) if value is not None else ""
