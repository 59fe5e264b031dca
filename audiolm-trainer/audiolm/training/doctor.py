"""`train.py --doctor`: is this machine, and is what the configuration names, ready to train?

In: a configuration, with input paths resolved where they exist. Out: one finding per check: ok, a
note (the run works without it), or a problem with its fix. All checks run, whatever one finds.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.device import choose_device
from audiolm.training.doctor_data import check_annotations, check_prompts
from audiolm.training.doctor_findings import Finding, note, ok, problem
from audiolm.training.doctor_machine import (
    check_device,
    check_packages,
    check_python,
    check_workers,
    measure_memory,
)
from audiolm.training.doctor_models import (
    check_beats,
    check_encoder_dtype,
    check_mel_bins_agree,
    check_paths,
    check_tokenizer,
    check_trained_weights,
    check_weights_fit,
)
from audiolm.training.doctor_teacher import check_teacher
from audiolm.training.memory_plan import GIB, plan_training
from audiolm.training.plan_command import plan_run
from audiolm.training.plan_report import PlannedRun
from audiolm.training.plan_setting import read_option

# Of the metrics that evaluation may ask for; `check_metrics_available` knows what each needs.
METRICS = ("cider_d", "meteor", "spice", "spider", "fense")


@dataclass(frozen=True)
class Surroundings:
    """What lies outside the package.

    `check_metrics` raises a `UserError` when metrics cannot be computed here (evaluation's
    `check_metrics_available`).
    """

    sizes_dir: Path  # published sizes, `configs/models`
    requirements_paths: Sequence[Path]
    check_metrics: Callable[[Sequence[str]], None]


def examine(config: Config, surroundings: Surroundings) -> list[Finding]:
    """All findings, in the order of a run: machine, packages, files, models, data, memory, disk."""
    planned: list[PlannedRun] = []

    def plan() -> list[Finding]:
        is_gpu = choose_device(config.run.device).type == "cuda"
        planned.append(plan_run(config, surroundings.sizes_dir, is_gpu=is_gpu))
        return check_memory(config, planned[0])

    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", check_python),
        ("device", lambda: check_device(config.run)),
        ("packages", lambda: check_packages(surroundings.requirements_paths)),
        ("metrics", lambda: check_metrics(surroundings.check_metrics)),
        ("paths", lambda: check_paths(config)),
        ("mel bins", lambda: check_mel_bins_agree(config)),
        ("encoders", lambda: check_encoder_dtype(config)),
        ("BEATs", lambda: check_beats(config.model)),
        ("tokenizer", lambda: check_tokenizer(config.model)),
        ("prompts", lambda: check_prompts(config)),
        ("annotations", lambda: check_annotations(config)),
        ("memory", plan),
        ("model weights", lambda: check_weights_fit(config.model, planned)),
        ("trained weights", lambda: check_trained_weights(config.model, planned)),
        ("teacher", lambda: check_teacher(config, surroundings.sizes_dir)),
        ("disk", lambda: check_disk(config, planned)),
        ("workers", lambda: check_workers(config.run)),
    ]
    findings = []
    for topic, check in checks:
        try:
            findings += check()
        except (UserError, OSError) as error:
            findings.append(problem(topic, " ".join(str(error).split())))
    return findings


def format_findings(findings: Sequence[Finding]) -> str:
    """One line per finding, and how many problems there are."""
    lines = [f"{finding.mark:8}{finding.topic}: {finding.text}" for finding in findings]
    num_problems = count_problems(findings)
    if not num_problems:
        end = "everything is ready"
    else:
        end = f"{num_problems} problem{'s' if num_problems > 1 else ''} to fix"
    return "\n".join([*lines, end]) + "\n"


def count_problems(findings: Sequence[Finding]) -> int:
    """How many findings stop a run."""
    return sum(finding.mark == "problem" for finding in findings)


def check_metrics(check: Callable[[Sequence[str]], None]) -> list[Finding]:
    """Java and the metrics' files; training does without them."""
    ready, others = [], []
    for metric in METRICS:
        try:
            check([metric])
            ready.append(metric)
        except UserError:
            others.append(metric)
    findings = [ok("metrics", f"{', '.join(ready)} can be computed")] if ready else []
    try:
        check(others)  # all that is missing, in one message
    except UserError as error:
        findings.append(note("metrics", f"{error}; training does without"))
    return findings


def check_memory(config: Config, planned: PlannedRun) -> list[Finding]:
    """The planned peak of training against what the device has."""
    device = choose_device(config.run.device)
    peak = plan_training(planned.sizes, planned.setting, planned.longest).peak_bytes
    total = measure_memory(device)
    text = f"training needs {peak / GIB:.1f} GiB at its peak"
    if total is None:
        return [note("memory", f"{text}; how much {device} has is not known")]
    if peak > total:
        cure = "--plan shows what to switch on"
        return [problem("memory", f"{text}, {device} has {total / GIB:.1f}; {cure}")]
    return [ok("memory", f"{text}, {device} has {total / GIB:.1f}")]


def check_disk(config: Config, planned: Sequence[PlannedRun]) -> list[Finding]:
    """Room for the checkpoints of a whole run, and a folder that can be written."""
    run = config.run
    folder = Path(run.output_dir or "outputs").resolve()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        text = f"run.output_dir: {place} cannot be written; choose another folder"
        return [problem("disk", text)]
    if not planned:
        return [note("disk", "not checked: the model's size is not known")]
    keep_last = read_option(run, "keep_last", 0)
    num_kept = (keep_last or run.optims.max_epoch) + read_option(run, "keep_best", 1)
    needed = (num_kept + 1) * planned[0].sizes.measure_checkpoint()  # one more while it is written
    free = shutil.disk_usage(place).free
    text = (
        f"{num_kept} checkpoints and one being written take {needed / GIB:.2f} GiB, "
        f"{place} has {free / GIB:.1f} free"
    )
    if needed > free:
        return [problem("disk", f"{text}; free some, or set run.output_dir to another disk")]
    return [ok("disk", text)]
