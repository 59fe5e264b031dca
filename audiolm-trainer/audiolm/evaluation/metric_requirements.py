"""What the caption metrics of other programs need on this machine, and what of it is missing.

In: names of metrics. Out: nothing when all is there, else a `UserError` that says what to get.

aac-metrics 0.5.4 runs METEOR and SPICE as Java programs. It finds Java by `AAC_METRICS_JAVA_PATH`
(default `java`) and the programs under `AAC_METRICS_CACHE_PATH` (default `~/.cache`), where its own
command puts them; FENSE's two models are in the caches of Hugging Face and of torch.hub.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from audiolm.errors import UserError

JAVA_METRICS = ("meteor", "spice", "spider", "spider_fl")
DOWNLOAD_COMMAND = "aac-metrics-download"

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


def _find_java_problem() -> str:
    """What is wrong with Java, or nothing."""
    java = os.path.expanduser(os.environ.get("AAC_METRICS_JAVA_PATH", "java"))
    needed = f"Java {_MIN_JAVA} to {_MAX_JAVA} is needed"
    cure = "install Java 11, or name it in AAC_METRICS_JAVA_PATH"
    try:
        output = subprocess.run(
            [java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return f"{needed}, {java!r} does not run; {cure}"
    version = re.match(r'\S+ version "([^"]*)"', output)
    if version is None:
        return f"{needed}, {java!r} does not tell its version; {cure}"
    major = re.match(r"(?:1\.)?(\d+)", version[1])
    if major is None or not _MIN_JAVA <= int(major[1]) <= _MAX_JAVA:
        return f"{needed}, {java!r} is {version[1]}; {cure}"
    return ""


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
