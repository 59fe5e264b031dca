"""The whole model with the shapes of one clip: what a clip of ten seconds becomes on its way."""

from audiolm.config import ModelConfig
from scripts.figures.canvas import (
    AUDIO,
    FROZEN,
    MARGIN,
    MONO,
    PLAIN,
    SOFT,
    TRAINED,
    WIDTH,
    Canvas,
    shade,
)
from scripts.figures.shapes import (
    LLM_WIDTH,
    NUM_MEL_BINS,
    WHISPER_FRAMES,
    WHISPER_WIDTH,
    Shapes,
    compute_shapes,
)
from scripts.figures.wording import Say

CLIP_SECONDS = 10
HEIGHT = 590


def draw_architecture(say: Say) -> str:
    """The whole figure as SVG text: encoders, windows, then connector and LLM."""
    shapes = compute_shapes(CLIP_SECONDS)
    canvas, options = Canvas(HEIGHT), ModelConfig()
    draw_encoders(canvas, shapes, options, say)
    draw_windows(canvas, shapes, say)
    draw_connector(canvas, shapes, options, say)
    draw_llm(canvas, shapes, options, say)
    return canvas.render(say("architecture_title"))


def draw_encoders(canvas: Canvas, shapes: Shapes, options: ModelConfig, say: Say) -> None:
    """First row: the clip, its two features, the two encoders, their frames side by side."""
    upper, lower, middle, h = 26, 118, 72, 74
    canvas.box(
        MARGIN, middle, 130, h, PLAIN, say("clip"),
        say("clip_note", seconds=str(CLIP_SECONDS)), f"({shapes.num_samples},)",
    )  # fmt: skip
    mel = f"({NUM_MEL_BINS}, {shapes.num_mel_frames})"
    fbank = f"({shapes.num_fbank_frames}, {shapes.num_fbank_bins})"
    canvas.box(208, upper, 160, h, PLAIN, "log-mel", say("padded"), mel)
    canvas.box(208, lower, 160, h, PLAIN, say("filterbank"), say("kaldi"), fbank)
    hidden = f"({WHISPER_FRAMES}, {WHISPER_WIDTH})"
    patches = f"({shapes.num_patches}, {shapes.beats_width})"
    whisper, beats = shade(options.freeze_whisper), shade(options.freeze_beats)
    canvas.box(408, upper, 236, h, whisper, say("whisper"), say("speech"), hidden)
    canvas.box(408, lower, 236, h, beats, "BEATs", say("sounds"), patches)
    frames = f"({WHISPER_FRAMES}, {shapes.frame_width})"
    canvas.box(690, middle, WIDTH - MARGIN - 690, h, TRAINED, say("norms"),
               say("shorter"), frames)  # fmt: skip
    for lane in (upper, lower):
        y = lane + h / 2
        canvas.path([(158, middle + h / 2), (183, middle + h / 2), (183, y), (206, y)])
        canvas.path([(368, y), (406, y)])
        canvas.path([(644, y), (667, y), (667, middle + h / 2), (688, middle + h / 2)])


def draw_windows(canvas: Canvas, shapes: Shapes, say: Say) -> None:
    """Second row: the frames cut into windows; those that hold audio are filled."""
    left, top, h = MARGIN, 240, 26
    num_cells, num_real = shapes.num_windows_fixed, shapes.num_windows_real
    cell = (WIDTH - 2 * MARGIN) / num_cells
    right, middle = WIDTH - MARGIN, (690 + WIDTH - MARGIN) / 2
    canvas.path([(middle, 146), (middle, top - 4)])
    length = {"frames": str(shapes.window_frames), "seconds": f"{shapes.window_seconds:.2f}"}
    note = say("windows", **length)
    canvas.text(left, top - 12, note, anchor="start", color=SOFT)
    for number in range(num_cells):
        fill = AUDIO if number < num_real else "#ffffff"
        canvas.rect(left + number * cell, top, cell, h, fill, 1.5)
    border, base = left + num_real * cell, top + h + 30
    canvas.bracket(left, border, top + h + 8)
    canvas.text((left + border) / 2, base, say("light", count=str(num_real)))
    canvas.text((border + right) / 2, base, say("exact", count=str(num_cells)))
    canvas.bracket(left, right, base + 8)


def draw_connector(canvas: Canvas, shapes: Shapes, options: ModelConfig, say: Say) -> None:
    """Third row: Q-Former and projector, and what the colours mean."""
    top, h = 340, 74
    rows = f"{shapes.num_windows_real} | {shapes.num_windows_fixed}"
    size, queries = options.qformer, options.num_speech_query_token
    canvas.path([(MARGIN + 120, 309), (MARGIN + 120, top - 2)])
    canvas.box(
        MARGIN, top, 240, h, shade(options.freeze_speech_QFormer), "Q-Former",
        say("qformer", layers=str(size.num_layers), queries=str(queries)),
        f"({rows}, {size.hidden_size})",
    )  # fmt: skip
    canvas.path([(268, top + h / 2), (318, top + h / 2)])
    canvas.box(
        320, top, 200, h, shade(options.freeze_speech_llama_proj), say("projector"),
        say("to_width"), f"({rows}, {LLM_WIDTH})",
    )  # fmt: skip
    for position, (fill, text) in enumerate(
        ((TRAINED, say("trained")), (FROZEN, say("frozen")), (PLAIN, say("computed")))
    ):
        y = top + 4 + 25 * position
        canvas.rect(640, y, 26, 16, fill, 4)
        canvas.text(676, y + 13, text, anchor="start")


def draw_llm(canvas: Canvas, shapes: Shapes, options: ModelConfig, say: Say) -> None:
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
    canvas.text(MARGIN + 535, 542, say("lora", rank=str(options.lora_rank)), 12.5)
    canvas.path([(668, 537), (698, 537)])
    canvas.box(700, 508, WIDTH - MARGIN - 700, 58, PLAIN, say("answer"), "", "a bell tolls twice")
