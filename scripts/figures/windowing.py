"""How frames become windows and windows audio tokens, in both modes."""

from scripts.figures.canvas import AUDIO, INK, MARGIN, PLAIN, SOFT, WIDTH, Canvas
from scripts.figures.shapes import compute_shapes
from scripts.figures.wording import Say

HEIGHT = 430
SHOWN_FRAMES, FRAMES_PER_SECOND = 68, 50
CLIP_LENGTHS_SECONDS = (1, 10, 30)


def draw_windowing(say: Say) -> str:
    """The figure as SVG text: one second's frames and windows, then both modes' token counts."""
    canvas = Canvas(HEIGHT)
    _draw_frames(canvas, say)
    _draw_counts(canvas, say)
    return canvas.render(say("windowing_title"))


def _draw_frames(canvas: Canvas, say: Say) -> None:
    """A clip of one second: its frames, the windows over them."""
    shapes = compute_shapes(1)
    cell, top = (WIDTH - 2 * MARGIN) / SHOWN_FRAMES, 56
    canvas.text(MARGIN, top - 14, say("frames_of", seconds="1"), anchor="start", color=SOFT)
    for number in range(SHOWN_FRAMES):
        fill = AUDIO if number < FRAMES_PER_SECOND else "#ffffff"
        canvas.rect(MARGIN + number * cell, top, cell, 24, fill, 1.5)
    length = shapes.window_frames
    for number in range(SHOWN_FRAMES // length):
        left = MARGIN + number * length * cell
        is_real = number < shapes.num_windows_real
        canvas.bracket(left, left + length * cell, top + 30)
        middle = left + length * cell / 2
        canvas.path([(middle, top + 37), (middle, top + 58)])
        fill = AUDIO if is_real else "#ffffff"
        canvas.rect(left + 8, top + 60, length * cell - 16, 34, fill, 6)
        name = say("window", number=str(number + 1)) if is_real else say("only_fixed")
        canvas.text(middle, top + 82, name, 13, color=INK if is_real else SOFT)
    canvas.text(MARGIN, top + 124, say("starts"), anchor="start", color=SOFT)


def _draw_counts(canvas: Canvas, say: Say) -> None:
    """Bars: how many of the LLM's positions a clip takes."""
    top, left, step = 246, 176, 26
    canvas.text(MARGIN, top - 18, say("positions"), 15, anchor="start", is_bold=True)
    largest = compute_shapes(1).num_windows_fixed
    scale = (WIDTH - MARGIN - left - 50) / largest
    for place, seconds in enumerate(CLIP_LENGTHS_SECONDS):
        shapes = compute_shapes(seconds)
        y = top + place * (2 * step + 6)
        label = say("tokens_of", seconds=str(seconds))
        canvas.text(MARGIN, y + step + 2, label, 15, anchor="start", is_bold=True)
        light = min(shapes.num_windows_real, shapes.num_windows_fixed)
        rows = (("light", light, AUDIO), ("salmonn", shapes.num_windows_fixed, PLAIN))
        for line, (mode, count, fill) in enumerate(rows):
            base = y + line * step
            canvas.text(left - 10, base + 15, mode, 12.5, anchor="end", color=SOFT)
            canvas.rect(left, base, count * scale, step - 6, fill, 4)
            canvas.text(left + count * scale + 10, base + 15, str(count), anchor="start")
