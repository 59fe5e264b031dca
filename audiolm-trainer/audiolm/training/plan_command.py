"""`train.py --plan`: the plan of a configuration, and its check, as text."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from audiolm.config import Config, DistilConfig
from audiolm.config_file import load_config
from audiolm.models.device import choose_device
from audiolm.models.quantisation import choose_encoder_dtype
from audiolm.training.feature_key import check_storable
from audiolm.training.memory_plan import list_parts
from audiolm.training.model_shapes import build_meta_model, find_model_sources
from audiolm.training.model_sizes import ModelSizes
from audiolm.training.plan_check import OpenMeter, format_check, measure_steps, run_measuring
from audiolm.training.plan_report import PlannedRun, format_gib, format_plan
from audiolm.training.plan_setting import Setting, TokenCounter, read_setting, read_workloads

NUM_GATHERED = 2  # of the LLM's layers: the one at work, and the next, which is on its way


def plan_run(config: Config, shipped_dir: Path, *, is_gpu: bool) -> PlannedRun:
    """Sizes, options and workloads of a run, from configuration files alone.

    Args:
        config: with input paths resolved where they exist.
        shipped_dir: folder of the published sizes (`configs/models`).
        is_gpu: plan for a GPU, there or not; False: for this machine's processor.

    Raises:
        UserError: a model whose sizes are not known, or a file that cannot be read.
    """
    sources = find_model_sources(config.model, shipped_dir)
    setting = read_setting(config, is_gpu=is_gpu)
    dtype = torch.float32 if setting.element_bytes == 4 else torch.bfloat16
    place = "cuda" if is_gpu else "cpu"
    encoder_dtype = choose_encoder_dtype(config.model, dtype, place)
    model = build_meta_model(config.model, sources, dtype, encoder_dtype)
    if setting.has_feature_cache:
        check_storable(model.encoder_sizes)
    counter = TokenCounter(sources.tokenizer)
    typical, longest = read_workloads(config, counter)
    notes = list(sources.notes)
    if not counter.is_exact:
        notes.append("tokens of prompts and answers are estimated from their length")
    if config.run.distil.teacher:
        notes.append(_describe_teacher(config, shipped_dir, is_gpu=is_gpu))
    sizes = ModelSizes.of(model, sources.llm)
    if config.run.fsdp and setting.has_llm:
        notes.append(_describe_shards(sizes, setting))
    return PlannedRun(sizes, setting, typical, longest, notes)


def _describe_shards(sizes: ModelSizes, setting: Setting) -> str:
    """A note: what to take off the tables below, which do not know the number of processes."""
    (whole,) = (part.num_bytes for part in list_parts(sizes, setting) if part.name == "LLM")
    llm = sizes.model.llm
    ends = (llm.get_input_embeddings(), llm.get_output_embeddings())
    kept = {id(end.weight): end.weight for end in ends if end is not None}
    layers = whole - sum(weight.nbytes for weight in kept.values())
    gathered = NUM_GATHERED * layers // sizes.dims.llm.num_hidden_layers
    saved = ", ".join(
        f"{format_gib(max(layers - layers // num - gathered, 0))} with {num} processes"
        for num in (2, 4, 8)
    )
    return (
        f"run.fsdp: the tables below hold the whole LLM. Of N processes each keeps 1/N of its "
        f"layers ({format_gib(layers)} GiB), and {NUM_GATHERED} whole ones at a time "
        f"({format_gib(gathered)} GiB): take off each sum, in GiB, {saved}"
    )


def _describe_teacher(config: Config, shipped_dir: Path, *, is_gpu: bool) -> str:
    """A note: what the tables below leave out."""
    model = load_config(config.run.distil.teacher).model
    alone = replace(config, model=model, run=replace(config.run, distil=DistilConfig()))
    teacher = plan_run(alone, shipped_dir, is_gpu=is_gpu)
    num_bytes = sum(part.num_bytes for part in list_parts(teacher.sizes, teacher.setting))
    return (
        f"run.distil.teacher: its weights take another {format_gib(num_bytes)} GiB, which the "
        "tables below leave out; its work on a batch and the loss's two sides are not counted"
    )


def write_plan(
    config: Config, shipped_dir: Path, title: str, measuring: Sequence[str] | None = None
) -> str:
    """The plan as text; with `measuring`, the command of `write_measurement`, checked too.

    Without a check, `run.device: auto` is planned for a GPU, since it is cards that one plans for.
    """
    if measuring is None:
        is_gpu = config.run.device != "cpu"
        return format_plan(plan_run(config, shipped_dir, is_gpu=is_gpu), title)
    planned = _plan_here(config, shipped_dir)
    text = format_plan(planned, title)
    measured = run_measuring(measuring)
    return text + "\n" + format_check(planned.sizes, planned.setting, planned.longest, measured)


def write_measurement(config: Config, shipped_dir: Path, open_meter: OpenMeter) -> str:
    """Measure the longest batch in this process, which should have done nothing yet; JSON."""
    planned = _plan_here(config, shipped_dir)
    setting, workload = planned.setting, planned.longest
    del planned
    return json.dumps(measure_steps(config, setting, workload, open_meter))


def _plan_here(config: Config, shipped_dir: Path) -> PlannedRun:
    """For the device that is there, and with the encoders, which a check runs."""
    is_gpu = choose_device(config.run.device).type == "cuda"
    planned = plan_run(config, shipped_dir, is_gpu=is_gpu)
    if not planned.setting.has_feature_cache:
        return planned
    notes = [*planned.notes, "--verify runs the encoders: datasets.feature_cache is left out"]
    return replace(planned, setting=replace(planned.setting, has_feature_cache=False), notes=notes)
