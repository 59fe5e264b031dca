"""What a measurement ran on: processor, memory, threads, device, versions, commit of the code."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "numpy")
CPUINFO_PATH = Path("/proc/cpuinfo")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Plain values; what is not known is None."""
    is_gpu = device.type == "cuda"
    cpu = find_cpu_name()
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if is_gpu else cpu,
        "device_memory_bytes": (
            torch.cuda.get_device_properties(device).total_memory if is_gpu else None
        ),
        "cpu": cpu,
        "num_cores": os.cpu_count(),
        "num_usable_cores": _count_usable_cores(),
        "num_threads": torch.get_num_threads(),
        "memory_bytes": _measure_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        # torch says itself which build it is, such as 2.13.0+cpu
        "packages": {name: _find_version(name) for name in PACKAGES}
        | {"torch": str(torch.__version__)},
    }


def find_cpu_name() -> str:
    """The processor's name as the system gives it."""
    if CPUINFO_PATH.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", CPUINFO_PATH.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def find_commit() -> str | None:
    """Commit of the checkout this code runs from, `-dirty` when it was changed; None without."""
    this_file = Path(__file__).resolve()
    git = ["git", "-C", str(this_file.parent)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", this_file.name], capture_output=True, check=True
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _count_usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _measure_memory() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
