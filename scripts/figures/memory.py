"""Peak memory of training as `train.py --plan` computes it, step by step of what saves memory."""

from audiolm.config_file import load_config
from scripts.figures.canvas import AUDIO, MARGIN, MONO, SANS, SOFT, TRAINED, WIDTH, Canvas
from scripts.figures.shapes import PACKAGE
from scripts.figures.wording import Say

CONFIGS = PACKAGE.parents[1] / "configs"
CARDS_GIB = (8, 12, 16, 24)
AXIS_GIB = 26
ROW, TOP = 46, 100  # height of a row; where the first begins


def draw_memory(say: Say) -> str:
    """The figure as SVG text. Plans full-size models from their published sizes; needs torch."""
    from audiolm.training.memory_plan import GIB, list_steps, plan_training
    from audiolm.training.plan_command import plan_run

    config = load_config(CONFIGS / "train_stage1.yaml", ["datasets.train_ann_path="])
    planned = plan_run(config, CONFIGS / "models", is_gpu=True)
    steps = [(say("as_configured"), planned.setting), *list_steps(planned.setting)]
    bottom = TOP + ROW * len(steps)
    canvas = Canvas(bottom + 52)
    scale = (WIDTH - 2 * MARGIN - 20) / AXIS_GIB
    canvas.text(MARGIN, 36, say("memory_title"), 17, anchor="start", is_bold=True)
    note = say("memory_note", clips=str(config.run.batch_size_train))
    canvas.text(MARGIN, 58, note, 12.5, anchor="start", color=SOFT)
    for card in CARDS_GIB:
        canvas.line(MARGIN + card * scale, TOP - 12, bottom + 4)
        canvas.text(MARGIN + card * scale, TOP - 18, say("card", gib=str(card)), 12, color=SOFT)
    for number, (text, setting) in enumerate(steps):
        y = TOP + number * ROW
        typical, longest = (
            plan_training(planned.sizes, setting, workload).peak_bytes / GIB
            for workload in (planned.typical, planned.longest)
        )
        font = MONO if number else SANS
        canvas.text(MARGIN, y + 12, text, 12, anchor="start", font=font, has_halo=True)
        canvas.rect(MARGIN, y + 19, longest * scale, 18, TRAINED, 3)
        canvas.rect(MARGIN, y + 19, typical * scale, 18, AUDIO, 3)
        x = MARGIN + longest * scale + 8
        canvas.text(x, y + 33, f"{longest:.1f}", 12, anchor="start", has_halo=True)
        canvas.text(MARGIN + typical * scale - 6, y + 33, f"{typical:.1f}", 12, anchor="end")
    legend = ((AUDIO, "typical", planned.typical), (TRAINED, "longest", planned.longest))
    for place, (fill, key, workload) in enumerate(legend):
        x = MARGIN + place * 330
        canvas.rect(x, bottom + 20, 26, 16, fill, 4)
        words = say(key, seconds=f"{workload.seconds:g}")
        canvas.text(x + 36, bottom + 33, words, 12.5, anchor="start")
    return canvas.render(say("memory_title"))
