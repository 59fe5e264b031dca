"""Small pieces of HTML: messages, timings, history. Whatever a visitor or a model wrote is escaped.

In: plain values. Out: HTML text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from audiolm.evaluation.demo_page.wording import say

MAX_HISTORY_ROWS = 50
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Timing:
    """One answer's figures.

    Attributes:
        ttft_seconds: from the question to the first token, with the encoding where there was one.
        tpot_seconds: per further token; None where there was none.
        encode_seconds: of log-mel, encoders and connector; None: an earlier question's was reused.
        num_audio_tokens, num_new_tokens: the LLM's positions.
        peak_bytes: of the GPU's tensors, or of this process without a GPU; None: not measured.
    """

    ttft_seconds: float
    tpot_seconds: float | None
    encode_seconds: float | None
    num_audio_tokens: int
    num_new_tokens: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Asked:
    """A finished question."""

    clip: str
    question: str
    answer: str
    timing: Timing


def show_error(message: str, language: str) -> str:
    """A box that screen readers announce."""
    title = escape(say("error", language))
    return f'<div class="note error" role="alert"><b>{title}</b> {escape(message)}</div>'


def show_note(message: str) -> str:
    """A quiet box; empty for no message."""
    return f'<div class="note" role="status">{escape(message)}</div>' if message else ""


def show_timing(timing: Timing | None, language: str, reference: str = "") -> str:
    """One chip per figure, and the reference below them where it is known."""
    chips = [] if timing is None else list_chips(timing, language)
    shown = "".join(f"<span><b>{escape(v)}</b> {escape(name)}</span>" for name, v in chips)
    rows = [f'<div class="chips">{shown}</div>'] if chips else []
    if reference:
        label = escape(say("reference", language))
        rows.append(f'<div class="reference"><b>{label}</b> {escape(reference)}</div>')
    return "".join(rows)


def list_chips(timing: Timing, language: str) -> list[tuple[str, str]]:
    """(name, value) of each figure."""
    encode, tpot, peak = timing.encode_seconds, timing.tpot_seconds, timing.peak_bytes
    encoding = say("reused", language) if encode is None else format_ms(encode)
    return [
        (say("ttft", language), format_ms(timing.ttft_seconds)),
        (say("tpot", language), "-" if tpot is None else format_ms(tpot)),
        (say("encoding", language), encoding),
        (say("audio_tokens", language), str(timing.num_audio_tokens)),
        (say("new_tokens", language), str(timing.num_new_tokens)),
        (say("peak", language), "-" if peak is None else f"{peak / MEBIBYTE:,.0f} MiB"),
    ]


def format_ms(seconds: float) -> str:
    """`3.21 ms`, `45.3 ms`, `1,204 ms`: three figures at least."""
    value = 1000 * seconds
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def show_history(rows: Sequence[Asked], language: str) -> str:
    """A table, the newest question first."""
    if not rows:
        return f'<p class="quiet">{escape(say("no_history", language))}</p>'
    names = ("clip", "question", "answer", "ttft", "tpot")
    head = "".join(f"<th>{escape(say(name, language).lower())}</th>" for name in names)
    body = []
    for row in reversed(rows[-MAX_HISTORY_ROWS:]):
        tpot = row.timing.tpot_seconds
        cells = (
            row.clip,
            row.question,
            row.answer,
            format_ms(row.timing.ttft_seconds),
            "-" if tpot is None else format_ms(tpot),
        )
        body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        '<div class="history"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
