"""Draw the README's figure from the code's own constants and option defaults.

    python scripts/draw_figures.py               # writes img/architecture.svg
    python scripts/draw_figures.py --check       # exit status 1 when the file is out of date

In: option defaults (`audiolm.config`) and constants read from the modules' sources, so that
nothing but the standard library is needed; the sizes of the released models that
configs/train_stage1.yaml names. Out: an SVG on a light card of its own, readable on any page.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.config import ModelConfig
from audiolm.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "audiolm-trainer" / "audiolm"
FIGURE = ROOT / "img" / "architecture.svg"
CLIP_SECONDS = 10
# From the `config.json` of the released Whisper-large-v3 and Llama-3.2-3B-Instruct.
NUM_MEL_BINS, WHISPER_FRAMES, WHISPER_WIDTH = 128, 1500, 1280
LLM_WIDTH = 3072

WIDTH, HEIGHT, MARGIN = 960, 590, 28
INK, SOFT, LINE, CARD = "#1f2733", "#56616f", "#8a95a3", "#fafbfc"
FROZEN, TRAINED, PLAIN, AUDIO = "#dde7f3", "#fde3c3", "#eef0f3", "#f2a65a"
SANS = "'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "Consolas, Menlo, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True)
class Shapes:
    """Lengths of one clip on its way; what is said of frames and windows is in encoder frames."""

    num_samples: int
    num_mel_frames: int
    num_fbank_frames: int
    num_fbank_bins: int
    num_patches: int
    beats_width: int
    frame_width: int
    window_frames: int
    window_seconds: float
    num_windows_fixed: int
    num_windows_real: int


def main(arguments: Sequence[str]) -> int:
    """Write the figure, or compare it with the file that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("-o", "--output", type=Path, default=FIGURE, help="file to write")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    drawing = draw_architecture(compute_shapes(CLIP_SECONDS))
    if not options.check:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(drawing, encoding="utf-8")
        print(options.output)
        return 0
    if not options.output.is_file():
        raise UserError(f"{options.output} is missing; run python scripts/draw_figures.py")
    if options.output.read_text(encoding="utf-8") == drawing:
        return 0
    print(f"{options.output} is out of date: run python scripts/draw_figures.py", file=sys.stderr)
    return 1


def read_constants(path: Path) -> dict[str, int]:
    """Numbers that a module assigns at its top level or as defaults of a class's fields."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and isinstance(node.value.value, int):
                found[target.id] = node.value.value
    return found


def compute_shapes(seconds: int) -> Shapes:
    """What becomes of a clip of so many seconds under the default options."""
    audio = read_constants(PACKAGE / "audio" / "loading.py")
    features = read_constants(PACKAGE / "audio" / "features.py")
    whisper = read_constants(PACKAGE / "models" / "whisper.py")
    beats = read_constants(PACKAGE / "models" / "beats.py")
    options = ModelConfig()

    num_samples = seconds * audio["SAMPLE_RATE_HZ"]
    hop, window = features["HOP_SAMPLES"], features["FBANK_WINDOW_SAMPLES"]
    num_fbank_frames = 1 + (num_samples - window) // hop
    patch = beats["input_patch_size"]
    rate = whisper["FRAMES_PER_SECOND"]
    length, step = (round(rate * s) for s in (options.second_per_window, options.second_stride))
    return Shapes(
        num_samples=num_samples,
        num_mel_frames=whisper["MEL_PER_FRAME"] * WHISPER_FRAMES,
        num_fbank_frames=num_fbank_frames,
        num_fbank_bins=features["NUM_FBANK_BINS"],
        num_patches=num_fbank_frames // patch * (features["NUM_FBANK_BINS"] // patch),
        beats_width=beats["encoder_embed_dim"],
        frame_width=WHISPER_WIDTH + beats["encoder_embed_dim"],
        window_frames=length,
        window_seconds=length / rate,
        num_windows_fixed=(WHISPER_FRAMES - length) // step + 1,
        num_windows_real=-(-(num_samples // whisper["SAMPLES_PER_FRAME"]) // step),
    )


class Canvas:
    """SVG elements in the order they were drawn; coordinates from the top left."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, fill: str, radius: float = 8) -> None:
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{LINE}"/>'
        )

    def text(
        self, x: float, y: float, text: str, size: float = 13, *, color: str = INK,
        anchor: str = "middle", font: str = SANS, is_bold: bool = False,
    ) -> None:  # fmt: skip
        weight = ' font-weight="600"' if is_bold else ""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
            f'text-anchor="{anchor}" font-family="{font}"{weight}>{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, fill: str, title: str, note: str, shape: str
    ) -> None:
        """A rounded box with a bold title, a note and a shape, each on its line when given."""
        self.rect(x, y, w, h, fill)
        lines = (
            (title, {"size": 15, "is_bold": True}),
            (note, {"size": 12.5, "color": SOFT}),
            (shape, {"size": 12.5, "font": MONO}),
        )
        shown = [(line, style) for line, style in lines if line]
        base = y + h / 2 - 9.5 * (len(shown) - 1) + 5
        for position, (line, style) in enumerate(shown):
            self.text(x + w / 2, base + 19 * position, line, **style)

    def path(self, points: Sequence[tuple[float, float]], *, has_head: bool = True) -> None:
        """A line through the points, with an arrow head at its end."""
        steps = " L".join(f"{x:g} {y:g}" for x, y in points)
        head = ' marker-end="url(#head)"' if has_head else ""
        self.elements.append(
            f'<path d="M{steps}" fill="none" stroke="{SOFT}" stroke-width="1.5"{head}/>'
        )

    def bracket(self, left: float, right: float, y: float) -> None:
        """A bracket below everything from left to right."""
        left, right = left + 1, right - 1
        self.path([(left, y), (left, y + 5), (right, y + 5), (right, y)], has_head=False)

    def render(self, title: str) -> str:
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img">\n<title>{escape(title)}</title>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            f'markerHeight="8" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{SOFT}"/></marker>'
            f'</defs>\n<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="14" '
            f'fill="{CARD}" stroke="#cfd5dc"/>\n{body}\n</svg>\n'
        )


def draw_architecture(shapes: Shapes) -> str:
    """The whole figure as SVG text: encoders, windows, then connector and LLM."""
    canvas, options = Canvas(), ModelConfig()
    draw_encoders(canvas, shapes, options)
    draw_windows(canvas, shapes)
    draw_connector(canvas, shapes, options)
    draw_llm(canvas, shapes, options)
    return canvas.render(
        "A clip goes through Whisper and BEATs, windows, Q-Former and projector into the LLM"
    )


def shade(is_frozen: bool) -> str:
    return FROZEN if is_frozen else TRAINED


def draw_encoders(canvas: Canvas, shapes: Shapes, options: ModelConfig) -> None:
    """First row: the clip, its two features, the two encoders, their frames side by side."""
    upper, lower, middle, h = 26, 118, 72, 74
    canvas.box(
        MARGIN, middle, 130, h, PLAIN, "clip",
        f"{CLIP_SECONDS} s, 16 kHz mono", f"({shapes.num_samples},)",
    )  # fmt: skip
    mel = f"({NUM_MEL_BINS}, {shapes.num_mel_frames})"
    fbank = f"({shapes.num_fbank_frames}, {shapes.num_fbank_bins})"
    canvas.box(208, upper, 160, h, PLAIN, "log-mel", "padded to 30 s", mel)
    canvas.box(208, lower, 160, h, PLAIN, "filterbank", "Kaldi, 10 ms frames", fbank)
    hidden = f"({WHISPER_FRAMES}, {WHISPER_WIDTH})"
    patches = f"({shapes.num_patches}, {shapes.beats_width})"
    whisper, beats = shade(options.freeze_whisper), shade(options.freeze_beats)
    canvas.box(408, upper, 236, h, whisper, "Whisper-large-v3 encoder", "speech, 50 Hz", hidden)
    canvas.box(408, lower, 236, h, beats, "BEATs", "sounds, 16 x 16 patches", patches)
    frames = f"({WHISPER_FRAMES}, {shapes.frame_width})"
    canvas.box(690, middle, WIDTH - MARGIN - 690, h, TRAINED, "LayerNorms, side by side",
               "shorter one zero-padded", frames)  # fmt: skip
    for lane in (upper, lower):
        y = lane + h / 2
        canvas.path([(158, middle + h / 2), (183, middle + h / 2), (183, y), (206, y)])
        canvas.path([(368, y), (406, y)])
        canvas.path([(644, y), (667, y), (667, middle + h / 2), (688, middle + h / 2)])


def draw_windows(canvas: Canvas, shapes: Shapes) -> None:
    """Second row: the frames cut into windows; those that hold audio are filled."""
    left, top, h = MARGIN, 240, 26
    num_cells, num_real = shapes.num_windows_fixed, shapes.num_windows_real
    cell = (WIDTH - 2 * MARGIN) / num_cells
    right, middle = WIDTH - MARGIN, (690 + WIDTH - MARGIN) / 2
    canvas.path([(middle, 146), (middle, top - 4)])
    length = f"{shapes.window_frames} frames ({shapes.window_seconds:.2f} s)"
    note = f"windows of {length}, one audio token each"
    canvas.text(left, top - 12, note, anchor="start", color=SOFT)
    for number in range(num_cells):
        fill = AUDIO if number < num_real else "#ffffff"
        canvas.rect(left + number * cell, top, cell, h, fill, 1.5)
    border, base = left + num_real * cell, top + h + 30
    canvas.bracket(left, border, top + h + 8)
    canvas.text((left + border) / 2, base, f"light: the {num_real} that hold audio")
    canvas.text((border + right) / 2, base, f"salmonn: all {num_cells}, whatever the clip's length")
    canvas.bracket(left, right, base + 8)


def draw_connector(canvas: Canvas, shapes: Shapes, options: ModelConfig) -> None:
    """Third row: Q-Former and projector, and what the colours mean."""
    top, h = 340, 74
    rows = f"{shapes.num_windows_real} | {shapes.num_windows_fixed}"
    size, queries = options.qformer, options.num_speech_query_token
    query = "1 query" if queries == 1 else f"{queries} queries"
    canvas.path([(MARGIN + 120, 309), (MARGIN + 120, top - 2)])
    canvas.box(
        MARGIN, top, 240, h, shade(options.freeze_speech_QFormer), "Q-Former",
        f"{size.num_layers} layers, {query} per window", f"({rows}, {size.hidden_size})",
    )  # fmt: skip
    canvas.path([(268, top + h / 2), (318, top + h / 2)])
    canvas.box(
        320, top, 200, h, shade(options.freeze_speech_llama_proj), "projector",
        "to the LLM's width", f"({rows}, {LLM_WIDTH})",
    )  # fmt: skip
    for position, (fill, text) in enumerate(
        ((TRAINED, "trained"), (FROZEN, "pretrained and frozen"), (PLAIN, "computed"))
    ):
        y = top + 4 + 25 * position
        canvas.rect(640, y, 26, 16, fill, 4)
        canvas.text(676, y + 13, text, anchor="start")


def draw_llm(canvas: Canvas, shapes: Shapes, options: ModelConfig) -> None:
    """Last rows: the audio tokens inside the prompt, the LLM, the answer."""
    top, h = 446, 30
    canvas.path([(420, 414), (420, top - 2)])
    before, after = options.prompt_template.split("{}")
    pieces = (
        (MARGIN, 58, "<bos>"),
        (90, 154, f"{before}<Speech>"),
        (594, WIDTH - MARGIN - 594, f"</Speech> Describe the audio.{after.replace(chr(10), ' ')}"),
    )
    for x, w, text in pieces:
        canvas.rect(x, top, w, h, "#ffffff", 4)
        canvas.text(x + w / 2, top + 20, text, 12.5, font=MONO)
    num_cells = shapes.num_windows_real
    cell = (590 - 248) / num_cells
    for number in range(num_cells):
        canvas.rect(248 + number * cell, top, cell, h, AUDIO, 1.5)
    canvas.path([(MARGIN + 320, top + h), (MARGIN + 320, 506)])
    canvas.rect(MARGIN, 508, 640, 58, shade(options.freeze_llm))
    canvas.text(MARGIN + 225, 542, "Llama-3.2-3B-Instruct", 15, is_bold=True)
    canvas.rect(MARGIN + 450, 521, 170, 32, TRAINED, 6)
    canvas.text(MARGIN + 535, 542, f"LoRA r={options.lora_rank} on q, v", 12.5)
    canvas.path([(668, 537), (698, 537)])
    canvas.box(700, 508, WIDTH - MARGIN - 700, 58, PLAIN, "answer", "", "a bell tolls twice")


if __name__ == "__main__":
    run_command(main)
