"""Stage 1, stage 2, evaluation: what each starts from, what it trains, on what."""

from audiolm.config import Config, ModelConfig
from audiolm.config_file import load_config
from scripts.figures.canvas import MARGIN, MONO, PLAIN, SOFT, WIDTH, Canvas, shade
from scripts.figures.shapes import PACKAGE
from scripts.figures.wording import Say

HEIGHT = 432
CONFIGS = PACKAGE.parents[1] / "configs"
GAP = 34


def draw_stages(say: Say) -> str:
    """The figure as SVG text: a column per step, by the shipped configurations."""
    canvas = Canvas(HEIGHT)
    width = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
    columns = (
        ("train_stage1.yaml", "stage1", "pretrained", "data1"),
        ("train_stage2.yaml", "stage2", "stage1_ckpt", "data2"),
        ("salmonn_eval_config.yaml", "evaluation", "stage2_ckpt", "data3"),
    )
    for number, (file, title, start, data) in enumerate(columns):
        left = MARGIN + number * (width + GAP)
        config = load_config(CONFIGS / file)
        is_training = title != "evaluation"
        canvas.text(left + width / 2, 44, say(title), 17, is_bold=True)
        canvas.text(left + width / 2, 66, f"configs/{file}", 12, color=SOFT, font=MONO)
        canvas.box(left, 82, width, 50, PLAIN, "", f"{say('starts_from')}: {say(start)}", "")
        _draw_parts(canvas, left, width, config.model, is_training, say)
        canvas.box(left, 330, width, 40, PLAIN, "", say(data), "")
        canvas.text(left + width / 2, 396, _describe(config, is_training, say), 12, color=SOFT)
        if number:
            canvas.path([(left - GAP + 2, 232), (left - 3, 232)])
    return canvas.render(say("stages_title"))


def _draw_parts(
    canvas: Canvas, left: float, width: float, model: ModelConfig, is_training: bool, say: Say
) -> None:
    """The model's parts from the clip up to the answer, by what happens to their weights."""
    parts = (
        (say("adapter", name=str(model.adapter), rank=str(model.lora_rank)), not is_training),
        ("LLM", model.freeze_llm or not is_training),
        (say("projector"), model.freeze_speech_llama_proj or not is_training),
        ("Q-Former, LayerNorm", model.freeze_speech_QFormer or not is_training),
        ("Whisper", model.freeze_whisper or not is_training),
        ("BEATs", model.freeze_beats or not is_training),
    )
    top, height = 146, 30
    for number, (name, is_frozen) in enumerate(parts):
        y = top + number * height
        canvas.rect(left, y, width, height - 4, shade(is_frozen), 6)
        canvas.text(left + 14, y + 18, name, 13, anchor="start", is_bold=True)
        note = say("trained") if not is_frozen else say("frozen") if is_training else ""
        canvas.text(left + width - 12, y + 18, note, 11.5, anchor="end", color=SOFT)


def _describe(config: Config, is_training: bool, say: Say) -> str:
    """How long it trains, or how it decodes."""
    if not is_training:
        options = config.generate
        return say("beams", beams=str(options.num_beams), tokens=str(options.max_new_tokens))
    run = config.run
    return say(
        "schedule",
        epochs=str(run.optims.max_epoch),
        steps=f"{run.iters_per_epoch:,}",
        clips=str(run.batch_size_train),
        rate=f"{run.optims.init_lr:g}",
    )
