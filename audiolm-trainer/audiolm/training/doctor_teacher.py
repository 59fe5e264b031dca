"""Checks of `run.distil`: the teacher's file, its models' files, its vocabulary and its weights."""

import dataclasses
from pathlib import Path

from audiolm.config import Config, DistilConfig
from audiolm.models.device import choose_device
from audiolm.models.llm import load_tokenizer
from audiolm.training.doctor_findings import Finding, note, ok
from audiolm.training.doctor_models import check_beats, check_trained_weights, check_weights_fit
from audiolm.training.plan_command import plan_run
from audiolm.training.teacher import count_shared_entries, read_teacher


def check_teacher(config: Config, sizes_dir: Path) -> list[Finding]:
    """Nothing without a teacher; else all that would stop the run once it is built.

    Raises:
        UserError: one of its files is missing or broken, its vocabulary is another, or options do
            not go together.
    """
    options = config.run.distil
    if not options.teacher or not Path(options.teacher).is_file():
        return []  # a missing file is said among the paths
    teacher = read_teacher(config)
    alone = dataclasses.replace(
        config, model=teacher, run=dataclasses.replace(config.run, distil=DistilConfig())
    )
    is_gpu = choose_device(config.run.device).type == "cuda"
    planned = [plan_run(alone, sizes_dir, is_gpu=is_gpu)]
    found = [
        *check_beats(teacher),
        *check_weights_fit(teacher, planned),
        *check_trained_weights(teacher, planned),
    ]
    findings = [dataclasses.replace(one, topic="teacher", text=f"its {one.text}") for one in found]
    if not Path(config.model.llama_path).is_dir():
        return [*findings, note("teacher", "vocabulary not checked: the student's is not here")]
    student = load_tokenizer(config.model.llama_path, config.model.token)
    num_entries = count_shared_entries(options, teacher, student)
    return [*findings, ok("teacher", f"{num_entries} entries of the vocabulary are the student's")]
