"""A clip as a picture: waveform, log-mel and the grid of its audio tokens over one time axis.

In: samples, log-mel, token grid. Out: an SVG that takes its colours from the page, light or dark.
Letters: T samples at 16 kHz, M mel bins, F frames of 10 ms.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.models.audio_tokens import plan_frames
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import FRAMES_PER_SECOND

WIDTH, LEFT = 1000, 78  # of the drawing, and where its plots begin; units of the SVG
PLOT_WIDTH = WIDTH - LEFT - 8
WAVE_TOP, WAVE_HEIGHT = 8, 74
MEL_TOP, MEL_HEIGHT = 92, 120
GRID_TOP, GRID_HEIGHT = 224, 26
AXIS_TOP = 254
HEIGHT = 290
NUM_WAVE_COLUMNS = 460
MEL_FRAMES_PER_SECOND = 100
# Dark blue to yellow, evenly rising in lightness.
COLOURS = np.array(
    [(13, 17, 54), (72, 31, 110), (148, 44, 110), (219, 85, 75), (250, 157, 58), (252, 244, 158)]
)


@dataclass(frozen=True)
class TokenGrid:
    """Where in time the audio tokens are.

    Attributes:
        windows: (start, end) in seconds of each window, in order.
        tokens_per_window: queries of the Q-Former.
    """

    windows: tuple[tuple[float, float], ...]
    tokens_per_window: int


def plan_grid(model: SALMONN, num_samples: int) -> TokenGrid:
    """The windows that the model makes tokens of, by its own plan."""
    options = model.audio_options
    plan = plan_frames(torch.tensor([num_samples]), model.encoder_sizes.max_frames, options)
    queries = model.speech_query_tokens
    tokens_per_window = 1 if queries is None else queries.shape[1]
    if not options.is_window_level:
        seconds = int(plan.num_used[0]) / FRAMES_PER_SECOND
        return TokenGrid(((0.0, seconds),), tokens_per_window)
    length, step = options.windows.length, options.windows.step
    starts = [number * step for number in range(int(plan.num_windows[0]))]
    rate = FRAMES_PER_SECOND
    return TokenGrid(tuple((s / rate, (s + length) / rate) for s in starts), tokens_per_window)


def draw_clip(
    samples: np.ndarray, log_mel: torch.Tensor, grid: TokenGrid, labels: tuple[str, str, str, str]
) -> str:
    """The picture as SVG.

    Args:
        samples: (T,) float32.
        log_mel: (M, 3000), of which the frames that are shown are taken.
        grid: see `plan_grid`.
        labels: of waveform, log-mel, tokens and the time axis.
    """
    seconds = max(len(samples) / SAMPLE_RATE_HZ, grid.windows[-1][1] if grid.windows else 0.0)
    scale = PLOT_WIDTH / seconds
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'class="clip-picture" aria-label="{escape(", ".join(labels[:3]))}">',
        _draw_wave(samples, scale),
        _draw_mel(log_mel, seconds),
        *_draw_grid(grid, scale),
        *_draw_axis(seconds, scale, labels[3]),
    ]
    middles = (
        WAVE_TOP + WAVE_HEIGHT / 2,
        MEL_TOP + MEL_HEIGHT / 2,
        GRID_TOP + GRID_HEIGHT / 2,
    )
    for label, y in zip(labels, middles, strict=False):
        parts.append(_text(LEFT - 10, y + 5, label, "end"))
    return "".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _draw_wave(samples: np.ndarray, scale: float) -> str:
    """An outline of the loudest and the quietest sample of each column."""
    width = len(samples) / SAMPLE_RATE_HZ * scale
    num_columns = max(2, min(NUM_WAVE_COLUMNS, len(samples)))
    edges = np.linspace(0, len(samples), num_columns + 1).astype(int)[:-1]
    loudest = float(np.abs(samples).max()) or 1.0
    highs = np.maximum.reduceat(samples, edges) / loudest
    lows = np.minimum.reduceat(samples, edges) / loudest
    xs = LEFT + np.linspace(0, width, num_columns)
    middle, half = WAVE_TOP + WAVE_HEIGHT / 2, WAVE_HEIGHT / 2
    upper = [f"{x:.1f} {middle - half * v:.1f}" for x, v in zip(xs, highs, strict=True)]
    lower = [f"{x:.1f} {middle - half * v + 0.8:.1f}" for x, v in zip(xs, lows, strict=True)]
    return f'<path class="wave" d="M{" L".join(upper + lower[::-1])} Z"/>'


def _draw_mel(log_mel: torch.Tensor, seconds: float) -> str:
    """The log-mel as an embedded PNG, low frequencies at the bottom."""
    from PIL import Image  # comes with gradio; only the page needs pictures

    num_frames = min(max(round(seconds * MEL_FRAMES_PER_SECOND), 1), log_mel.shape[1])
    values = log_mel[:, :num_frames].flip(0).numpy()  # (M, F)
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / max(high - low, 1e-6)
    places = np.linspace(0.0, 1.0, len(COLOURS))
    pixels = np.stack([np.interp(shares, places, COLOURS[:, c]) for c in range(3)], axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", optimize=True)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<image x="{LEFT}" y="{MEL_TOP}" width="{PLOT_WIDTH}" height="{MEL_HEIGHT}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{content}"/>'
    )


def _draw_grid(grid: TokenGrid, scale: float) -> Iterator[str]:
    """A box per window; windows that overlap take turns in two rows."""
    overlaps = any(b[0] < a[1] - 1e-6 for a, b in zip(grid.windows, grid.windows[1:], strict=False))
    height = GRID_HEIGHT / 2 if overlaps else GRID_HEIGHT
    for number, (start, end) in enumerate(grid.windows):
        y = GRID_TOP + (number % 2 * height if overlaps else 0)
        shade = "token odd" if number % 2 else "token"
        first = 1 + number * grid.tokens_per_window
        tokens = (
            str(first)
            if grid.tokens_per_window == 1
            else (f"{first}-{first + grid.tokens_per_window - 1}")
        )
        yield (
            f'<rect class="{shade}" x="{LEFT + start * scale:.2f}" y="{y:g}" '
            f'width="{(end - start) * scale:.2f}" height="{height:g}">'
            f"<title>{tokens}: {start:.2f}-{end:.2f} s</title></rect>"
        )


def _draw_axis(seconds: float, scale: float, unit: str) -> Iterator[str]:
    """Ticks at whole steps, about ten of them."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5) if seconds / s <= 12)
    for number in range(int(seconds / step + 1e-6) + 1):
        x = LEFT + number * step * scale
        yield f'<path class="tick" d="M{x:.1f} {AXIS_TOP} v5"/>'
        yield _text(min(x, WIDTH - 20), AXIS_TOP + 20, f"{number * step:g}", "middle")
    yield _text(LEFT - 10, AXIS_TOP + 20, unit, "end")
