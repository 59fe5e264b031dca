"""A whole training run on tiny random weights: every option as configured, only sizes replaced.

The same loaders, loop, checkpoint and generation as a real run; no network, under a minute.
"""

import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.config import Config, GenerateConfig, QFormerConfig
from audiolm.config_file import save_config
from audiolm.data.annotations import load_annotation
from audiolm.data.batches import collate
from audiolm.models.build import resolve_adapter
from audiolm.models.checkpoint import save_checkpoint
from audiolm.models.random_stack import build_random_stack
from audiolm.models.salmonn import SALMONN
from audiolm.models.stack_sizes import TINY
from audiolm.prompts import SPEECH_MARKER, PromptBook, apply_template
from audiolm.training.data import build_dataset, load_log_mel

TINY_QFORMER = QFormerConfig(hidden_size=32, num_heads=2, intermediate_size=64, num_layers=2)
TINY_VBLORA = {"vector_length": 8, "num_vectors": 16}
CLIP_SECONDS = (1.0, 2.5, 4.0, 1.7)
TEXTS = ("one two three", "a bell rings", "the door is open", "rain falls on a roof")
TINY_TOP_K = 4  # of a teacher's tokens; the tiny vocabulary is small
NUM_STEPS = 3  # optimiser steps in each of two epochs
NO_TIME = 1e-9  # minutes


def dry_run(config: Config, train: Callable[[Config, str], Path]) -> list[str]:
    """Train, save, resume, load and generate with tiny stand-ins for the weights; a line about it,
    of the first process. Only a process that is alone stops after a step and resumes: the others'
    connection does not outlast a run.

    Raises:
        UserError: whatever a real run would raise about options and prompts.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        tiny = make_tiny_config(config, Path(temporary))
        how, folder, minutes = "", "", tiny.run.max_time_minutes
        if os.environ.get("WORLD_SIZE", "1") == "1":
            tiny.run.max_time_minutes = NO_TIME
            folder = str(train(tiny, ""))
            how, tiny.run.max_time_minutes = ", the first before an interruption", minutes
        run_folder = train(tiny, folder)
        if os.environ.get("RANK", "0") != "0":
            return []  # the first process holds the files and tries them
        tiny.model.ckpt = str(run_folder / "checkpoint_best.pth")
        model = SALMONN.from_config(tiny.model)
        clips = load_annotation(tiny.datasets.valid_ann_path)
        samples = collate([build_dataset(tiny, clips, load_log_mel(tiny))[0]])
        prompt = apply_template(tiny.model.prompt_template, f"<Speech>{SPEECH_MARKER}</Speech>")
        with torch.no_grad():
            texts = model.generate(samples, GenerateConfig(max_new_tokens=5), prompts=[prompt])
        summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    loss = summary["validations"][-1]["loss"]
    seconds = time.perf_counter() - started
    return [
        f"dry run passed in {seconds:.0f} s: trained {2 * NUM_STEPS} steps{how} (validation loss "
        f"{loss:.3f}), saved, loaded and generated {len(texts)} answer"
    ]


def make_tiny_config(config: Config, folder: Path) -> Config:
    """A copy of the configuration that points to tiny weights and clips made in `folder`."""
    tiny = copy.deepcopy(config)
    stack = build_random_stack(folder / "stack", TINY, texts=TEXTS, seed=config.run.seed)
    model = tiny.model
    model.whisper_path, model.llama_path = str(stack.whisper_path), str(stack.llama_path)
    model.beats_path = str(stack.beats_path) if model.beats_path else ""
    model.qformer = TINY_QFORMER
    model.ckpt = model.speech_llama_proj_model = ""
    model.end_sym = ""  # the tiny tokenizer's own
    if resolve_adapter(model) == "vblora":
        model.adapter_options = {**model.adapter_options, **TINY_VBLORA}

    task = PromptBook.load(model.prompt_path).tasks[0]
    datasets = tiny.datasets
    annotation = _write_clips(folder, task, config.run.seed)
    datasets.prefix, datasets.whisper_path = str(folder), ""
    datasets.train_ann_path = datasets.valid_ann_path = str(annotation)
    datasets.feature_cache = str(folder / "features") if datasets.feature_cache else ""
    datasets.augment.noise_dir = ""  # made noise instead
    if tiny.run.distil.teacher:
        _write_teacher(tiny, folder)

    run = tiny.run
    run.output_dir, run.loggers, run.num_workers = str(folder / "runs"), [], 0
    run.batch_size_train = run.batch_size_eval = 2
    run.epoch_based, run.iters_per_epoch = False, NUM_STEPS * run.accum_grad_iters
    run.optims.max_epoch, run.optims.warmup_steps = 2, NUM_STEPS
    return tiny


def _write_teacher(tiny: Config, folder: Path) -> None:
    """The tiny stack with a connector of its own as the teacher."""
    distil, path = tiny.run.distil, folder / "teacher.yaml"
    trained_path = folder / "teacher.pth"
    save_checkpoint(trained_path, SALMONN.from_config(tiny.model))
    model = replace(tiny.model, ckpt=str(trained_path))
    save_config(Config(model=model), path)
    distil.teacher, distil.top_k = str(path), min(distil.top_k, TINY_TOP_K)
    distil.cache = str(folder / "said") if distil.cache else ""


def _write_clips(folder: Path, task: str, seed: int) -> Path:
    """Noise clips and their annotation."""
    generator = np.random.default_rng(seed)
    rows = []
    for position, (seconds, text) in enumerate(zip(CLIP_SECONDS, TEXTS, strict=True)):
        name = f"clip_{position}.wav"
        noise = 0.1 * generator.standard_normal(int(seconds * SAMPLE_RATE_HZ))
        soundfile.write(folder / name, noise, SAMPLE_RATE_HZ)
        rows.append({"path": name, "text": text, "task": task, "duration": seconds})
    path = folder / "annotation.json"
    path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return path
