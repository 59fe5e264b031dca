"""Checks of the machine: Python, device and number types, package versions, cores."""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import InvalidRequirement, Requirement

from audiolm.config import RunConfig
from audiolm.models.device import choose_device
from audiolm.training.doctor_findings import Finding, note, ok, problem
from audiolm.training.memory_plan import GIB
from audiolm.training.plan_setting import read_option

MIN_PYTHON, END_PYTHON = (3, 10), (3, 13)


def check_python() -> list[Finding]:
    """A version that the packages are made for."""
    version = sys.version_info[:2]
    text = f"{platform.python_version()} on {platform.system()}"
    if not MIN_PYTHON <= version < END_PYTHON:
        return [problem("Python", f"{text}; versions 3.10 to 3.12 work, make a venv with one")]
    return [ok("Python", text)]


def check_device(run: RunConfig) -> list[Finding]:
    """The device of `run.device`, its memory, and whether it has the number types asked for."""
    device = choose_device(run.device)
    total = measure_memory(device)
    size = f"{total / GIB:.1f} GiB" if total is not None else "unknown memory"
    precision = read_option(run, "precision", "auto")
    if device.type != "cuda":
        findings = [ok("device", f"{device}, {size}, float32")]
        if run.device == "auto":
            findings.append(note("device", "no GPU found: training at full size takes one"))
        if precision in ("bf16", "fp16"):
            text = f"run.precision: {precision} is very slow on a processor; use fp32 or auto"
            findings.append(note("device", text))
        return findings
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    types = "bfloat16 and float16" if has_bfloat16 else "float16, no bfloat16"
    findings = [ok("device", f"{device}, {torch.cuda.get_device_name(device)}, {size}, {types}")]
    if precision == "bf16" and not has_bfloat16:
        text = "run.precision: bf16, which this GPU does not have; use fp16 or auto"
        findings.append(problem("device", text))
    return findings


def measure_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's memory, or of this machine's; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_packages(paths: Sequence[Path]) -> list[Finding]:
    """Installed versions against the bounds of the requirements files."""
    wanted = [requirement for path in paths for requirement in read_requirements(path)]
    findings = []
    for requirement in wanted:
        fix = f'pip install "{requirement.name}{requirement.specifier}"'
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.append(problem("packages", f"{requirement.name} is missing; {fix}"))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version} is not {requirement.specifier}; {fix}"
            findings.append(problem("packages", text))
    return findings or [ok("packages", f"{len(wanted)} in the versions asked for")]


def read_requirements(path: Path) -> Iterator[Requirement]:
    """Lines of a requirements file that concern this Python; `-r` lines are left to the caller."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # a path or an address
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def check_workers(run: RunConfig) -> list[Finding]:
    """Loading processes against cores."""
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    text = f"run.num_workers: {run.num_workers}, {num_cores} cores"
    if run.num_workers > num_cores:
        fix = f"more than {num_cores} only get in each other's way; set it to {num_cores} or less"
        return [note("workers", f"{text}; {fix}")]
    return [ok("workers", text)]
