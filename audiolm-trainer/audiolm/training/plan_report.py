"""A memory plan as text: parameters by part, training, answering, and which card it fits on."""

from collections.abc import Sequence
from dataclasses import dataclass

from audiolm.training.memory_plan import (
    GIB,
    PeakMemory,
    list_parts,
    list_steps,
    plan_answering,
    plan_training,
)
from audiolm.training.model_sizes import ModelSizes
from audiolm.training.plan_setting import Setting, Workload

CARDS_GIB = (8, 12, 16, 24, 32, 80)
TYPE_NAMES = {2: "half precision (bfloat16, or float16 on older GPUs)", 4: "float32"}
FOOTNOTES = (
    "GiB are 2^30 bytes. A card is taken to have all of its memory free; a desktop uses some.",
    "A row is what one process holds: with torchrun each card holds all of it, and exchanging the "
    "gradients copies them 64 MiB at a time.",
    "nf4 keeps its block maxima in 8 bits too; model.nf4_double_quant: false keeps them in "
    "float32, for another 0.0466 bytes per weight.",
)


@dataclass(frozen=True)
class PlannedRun:
    """What is planned: the model's sizes, the options, a typical and a longest batch."""

    sizes: ModelSizes
    setting: Setting
    typical: Workload
    longest: Workload
    notes: Sequence[str]


def format_plan(planned: PlannedRun, title: str) -> str:
    """The whole plan."""
    setting, sizes = planned.setting, planned.sizes
    workloads = (planned.typical, planned.longest)
    training = [plan_training(sizes, setting, workload) for workload in workloads]
    answering = [plan_answering(sizes, setting, workload) for workload in workloads]
    sections = [
        "\n".join([title, _describe_setting(setting), *planned.notes]),
        "Parameters\n" + _format_parts(planned),
        "Batches\n" + "\n".join(map(_describe_batch, workloads, training)),
        "Training, GiB\n" + _format_rows(training),
        f"Answering {setting.num_eval_clips} clips at once, {setting.num_beams} beams, GiB\n"
        + _format_rows(answering),
        _format_cards(planned),
        "\n".join(FOOTNOTES),
    ]
    return "\n\n".join(sections) + "\n"


def _describe_setting(setting: Setting) -> str:
    place = "a GPU" if setting.is_gpu else "a processor"
    trained = "computes in half precision too" if setting.is_mixed else "computes in float32"
    return (
        f"On {place}: frozen weights in {TYPE_NAMES[setting.element_bytes]}; what trains is "
        f"float32 and {trained}."
    )


def _describe_batch(workload: Workload, memory: PeakMemory) -> str:
    shape = memory.shape
    return (
        f"{workload.name:8} {shape.num_clips} clips of {workload.seconds:.1f} s: "
        f"{shape.num_prompt_tokens} prompt + {shape.num_audio_tokens} audio + "
        f"{shape.num_answer_tokens} answer tokens = {shape.num_positions} positions "
        f"({workload.why})"
    )


def _format_parts(planned: PlannedRun) -> str:
    parts = list_parts(planned.sizes, planned.setting)
    rows = [
        [part.name, f"{part.num_parameters:,}", f"{part.num_trained:,}", part.number_type,
         format_gib(part.num_bytes), part.why]
        for part in parts
    ]  # fmt: skip
    total = [sum(p.num_parameters for p in parts), sum(p.num_trained for p in parts)]
    num_bytes = sum(part.num_bytes for part in parts)
    rows.append(["total", *(f"{n:,}" for n in total), "", format_gib(num_bytes), ""])
    head = ["part", "parameters", "trained", "type", "GiB", "why"]
    return format_table(head, rows, right=(1, 2, 4))


def _format_rows(memories: Sequence[PeakMemory]) -> str:
    """One row per amount, a column per workload; the reason is the last workload's."""
    last = memories[-1]
    rows = [
        [amount.name, *(format_gib(m.row(amount.name).num_bytes) for m in memories), amount.why]
        for amount in last.rows
        if any(m.row(amount.name).num_bytes for m in memories)
    ]
    for phase in last.phases:
        mark = "peak, " if phase == last.peak_phase else ""
        rows.append([f"= {mark}{phase}", *(format_gib(m.phases[phase]) for m in memories), ""])
    return format_table(["what", "typical", "longest", "why (of the longest)"], rows, right=(1, 2))


def _format_cards(planned: PlannedRun) -> str:
    """Each step to need less, its peaks, and the cards it fits on."""
    steps = [("as configured", planned.setting), *list_steps(planned.setting)]
    rows, fits = [], dict.fromkeys(CARDS_GIB, "")
    for number, (text, setting) in enumerate(steps):
        typical, longest = (
            plan_training(planned.sizes, setting, workload).peak_bytes
            for workload in (planned.typical, planned.longest)
        )
        answering = plan_answering(planned.sizes, setting, planned.longest).peak_bytes
        marks = []
        for card in CARDS_GIB:
            is_fit = longest <= card * GIB
            marks.append("yes" if is_fit else "typical" if typical <= card * GIB else "no")
            if is_fit and not fits[card]:
                fits[card] = "as configured" if number == 0 else f"with the first {number} of these"
        sizes = [format_gib(n) for n in (typical, longest, answering)]
        rows.append([str(number) if number else "", text, *sizes, *marks])
    columns = ["", "training", "typical", "longest", "answering", *(f"{c} GiB" for c in CARDS_GIB)]
    table = format_table(columns, rows, right=(2, 3, 4))
    lines = [
        f"{card:3} GiB: training {'fits ' + how if how else 'does not fit'}"
        for card, how in fits.items()
    ]
    head = (
        "What fits, and what to switch on in this order, each with all above it (peaks in GiB; "
        "typical: only typical batches fit)\n"
    )
    return head + table + "\n" + "\n".join(lines)


def format_gib(num_bytes: int) -> str:
    """GiB with two decimals."""
    return f"{num_bytes / GIB:.2f}"


def format_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Text columns, two spaces apart; `right` are aligned to the right."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return ("  " + "  ".join(padded)).rstrip()

    return "\n".join([line(columns), *map(line, rows)])
