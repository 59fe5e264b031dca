"""Checks of the data: annotations parse, their audio is there, and each task has a prompt."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from audiolm.config import Config
from audiolm.config_file import list_corpora
from audiolm.data.annotations import Clip, check_tasks, load_annotation, resolve_audio_path
from audiolm.data.clips import collect_tasks
from audiolm.errors import UserError
from audiolm.prompts import PromptBook
from audiolm.training.doctor_findings import Finding, note, ok, problem

# Whose entries training reads, and the prompts that belong to them.
TRAIN_OPTIONS = ("datasets.train_ann_path", "datasets.valid_ann_path")
TEST_OPTIONS = (
    "datasets.test_ann_path",
    "datasets.test_ann_path_asr",
    "datasets.test_ann_path_aac",
)
MAX_LOOKED_UP = 2000  # clips of a file whose audio is looked for, spread over it
FFMPEG_SUFFIXES = {".m4a", ".mp4", ".aac", ".webm", ".wma"}  # soundfile does not read these


def check_annotations(config: Config) -> list[Finding]:
    """Every annotation that is set: it parses, has texts, and its audio is where it says."""
    findings = []
    for option, path, clips in _iterate_annotations(config):
        if isinstance(clips, str):
            findings.append(problem("annotations", f"{option}: {clips}"))
            continue
        findings.append(ok("annotations", f"{option}: {len(clips)} clips in {path}"))
        findings += _check_audio(option, config.datasets.prefix, clips)
    return findings


def check_prompts(config: Config) -> list[Finding]:
    """Prompt files parse and hold each task of the annotations that are used with them."""
    findings = []
    for option, path, users in (
        ("model.prompt_path", config.model.prompt_path, TRAIN_OPTIONS),
        ("model.test_prompt_path", config.model.test_prompt_path, TEST_OPTIONS),
    ):
        if not path or not Path(path).is_file():
            continue  # said among the paths
        try:
            book = PromptBook.load(path)
        except UserError as error:
            findings.append(problem("prompts", f"{option}: {error}"))
            continue
        tasks, problems = set(), []
        for user, annotation_path, clips in _iterate_annotations(config):
            if user not in users or isinstance(clips, str):
                continue
            tasks |= collect_tasks(clips)
            try:
                check_tasks(annotation_path, clips, book)
            except UserError as error:
                problems.append(problem("prompts", f"{user}: {error}"))
        text = f"{option}: {len(book.tasks)} tasks, {len(tasks)} of them in use"
        findings += problems or [ok("prompts", text)]
    return findings


def _iterate_annotations(config: Config) -> Iterator[tuple[str, str, Sequence[Clip] | str]]:
    """(option, path, clips), or a message in place of the clips of a file that does not parse."""
    for option in (*TRAIN_OPTIONS, *TEST_OPTIONS):
        is_training = option in TRAIN_OPTIONS
        value = getattr(config.datasets, option.partition(".")[2])
        # The one option that may be a list of files, with weights.
        paths = list_corpora(value) if option == "datasets.train_ann_path" else [(value, 1.0)]
        for path, _ in paths:
            if not path or not Path(path).is_file():
                continue  # said among the paths
            try:
                yield option, path, load_annotation(path, require_text=is_training)
            except UserError as error:
                yield option, path, str(error)


def _check_audio(option: str, prefix: str, clips: Sequence[Clip]) -> list[Finding]:
    step = -(-len(clips) // MAX_LOOKED_UP)
    looked_up = [clip for clip in islice(clips, 0, None, step) if clip.stored is None]
    paths = [path for clip in looked_up for path in (clip.path, *clip.expand_wav)]
    places = [resolve_audio_path(prefix, path) for path in paths]
    missing = [str(place) for place in places if not place.is_file()]
    findings = []
    if missing:
        text = (
            f"{option}: {len(missing)} of {len(places)} audio files are not there, first "
            f"{missing[0]}; correct datasets.prefix or the annotation's paths"
        )
        findings.append(problem("audio", text))
    else:
        findings.append(ok("audio", f"{option}: {len(places)} files looked up, all there"))
    odd = sorted({place.suffix.lower() for place in places} & FFMPEG_SUFFIXES)
    if odd and shutil.which("ffmpeg") is None:
        text = f"{option}: {', '.join(odd)} files need ffmpeg, which is not there; install it"
        findings.append(problem("audio", text))
    elif odd:
        findings.append(note("audio", f"{option}: {', '.join(odd)} files are read by ffmpeg"))
    return findings
