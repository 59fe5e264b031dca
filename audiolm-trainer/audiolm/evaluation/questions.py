"""Questions as users put them: which audio, which words; mistakes show before a model is loaded.

In: an audio file, a folder, or a list (`.txt` with a path per line, or an annotation), and a prompt
or a task. Out: `Question`, one per clip.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm.audio.augment import NOISE_SUFFIXES
from audiolm.audio.ffmpeg import FFMPEG_SUFFIXES
from audiolm.audio.loading import WHOLE_FILE, LongAudioPolicy, Span, Waveform, load_waveform
from audiolm.data.annotations import load_annotation, resolve_audio_path
from audiolm.errors import UserError
from audiolm.prompts import PLACEHOLDER, SPEECH_MARKER, PromptBook, fill_question

# path options that a configuration to ask with must have, for `config_file.load_config`
REQUIRED_PATHS = ("model.llama_path", "model.whisper_path", "model.test_prompt_path")
DEFAULT_TASK = "asr"
AUDIO_BEFORE_PROMPT = f"<Speech>{SPEECH_MARKER}</Speech> "
AUDIO_SUFFIXES = FFMPEG_SUFFIXES | {*NOISE_SUFFIXES, ".oga", ".au", ".caf", ".w64", ".rf64"}
ANNOTATION_SUFFIXES = (".json", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Question:
    """One clip and what is asked about it.

    Attributes:
        name: what the user calls the clip.
        path: its file; `~` is the home folder.
        prompt: as written or as the task has it, template not yet applied.
        task: whose prompt it is; empty for the user's own.
        span: the part of the file that the clip is.
        extra_paths: files to append.
    """

    name: str
    path: str | Path
    prompt: str
    task: str = ""
    span: Span = WHOLE_FILE
    extra_paths: tuple[Path, ...] = ()

    def load(self, long_audio: LongAudioPolicy) -> Waveform:
        """The clip, at most 30 s of it.

        Raises:
            UserError: as `load_clip`.
        """
        return load_clip(self.path, long_audio, span=self.span, extra_paths=self.extra_paths)


def list_questions(
    audio: str, book: PromptBook, prompt: str = "", task: str = "", prefix: str = ""
) -> list[Question]:
    """What is asked, clip by clip: one file, every audio file below a folder, or a list's entries.

    Args:
        audio: the file, the folder, or the list. A `.txt` has a path per line, looked for from the
            current directory, then from the list's folder; `.json` and `.jsonl` are annotations.
        prompt: asked about every clip; empty: the task's.
        task: whose prompt; empty: the annotation's entry says, or else `asr`.
        prefix: folder that an annotation's paths are joined to.

    Raises:
        UserError: no path, no such folder or list, nothing in it, an unknown task.
    """
    if not audio.strip():  # a shell's variable that is not set, and not the current folder
        raise UserError("--wav is empty: name an audio file, a folder or a list")
    own_task = task or DEFAULT_TASK
    path = Path(os.path.expanduser(audio))
    if str(path).lower().endswith(ANNOTATION_SUFFIXES):
        return _read_annotation(path, book, prompt, task, prefix)
    full_prompt = build_prompt(book, prompt, own_task)
    shown_task = "" if prompt.strip() else own_task
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            known = " ".join(sorted(AUDIO_SUFFIXES))
            raise UserError(f"folder {path}: no audio file in it or below; known are {known}")
        return [Question(str(file), file, full_prompt, shown_task) for file in files]
    if path.suffix.lower() == ".txt" and path.is_file():
        names = _read_list(path)
        places = [_find_listed(name, path.parent) for name in names]
        pairs = zip(names, places, strict=True)
        return [Question(name, place, full_prompt, shown_task) for name, place in pairs]
    return [Question(audio, audio, full_prompt, shown_task)]


def is_single(audio: str) -> bool:
    """Whether `--wav` names one audio file, not a folder or a list."""
    path = Path(os.path.expanduser(audio))
    return not (path.is_dir() or str(path).lower().endswith((".txt", *ANNOTATION_SUFFIXES)))


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"list {path}: not UTF-8 text ({error.reason}); one path per line"
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UserError(f"list {path}: no path in it; write one per line")
    return names


def _find_listed(name: str, folder: Path) -> Path:
    """A listed path from the current directory, else from the list's folder."""
    path = Path(os.path.expanduser(name))
    return path if path.is_absolute() or path.exists() else folder / path


def _read_annotation(
    path: Path, book: PromptBook, prompt: str, task: str, prefix: str
) -> list[Question]:
    questions = []
    for clip in load_annotation(path):
        if clip.stored is not None:
            raise UserError(f"{path}: {clip.place} is in a shard; evaluate_salmonn.py reads those")
        own_task = task or clip.task
        sentence = prompt.strip() or fill_question(book.choices(own_task)[0], clip.question)
        questions.append(
            Question(
                clip.name,
                resolve_audio_path(prefix, clip.path),
                build_prompt(book, sentence, own_task),
                "" if prompt.strip() else own_task,
                clip.span,
                tuple(resolve_audio_path(prefix, extra) for extra in clip.expand_wav),
            )
        )
    if not questions:
        raise UserError(f"annotation {path}: it has no entries")
    return questions


def build_prompt(book: PromptBook, prompt: str, task: str) -> str:
    """The prompt around the audio, template not yet applied: the user's, or else the task's.

    Raises:
        UserError: there is no prompt, and no such task or one that needs a question.
    """
    prompt = prompt.strip()
    if not prompt:
        sentence = book.choices(task)[0]
        if PLACEHOLDER in sentence:
            raise UserError(
                f"task {task!r} asks a question of your own ({sentence!r}): give it as the prompt"
            )
        return sentence
    return prompt if SPEECH_MARKER in prompt else AUDIO_BEFORE_PROMPT + prompt


def load_clip(
    audio_path: str | Path,
    long_audio: LongAudioPolicy = "truncate",
    *,
    span: Span = WHOLE_FILE,
    extra_paths: Sequence[Path] = (),
) -> Waveform:
    """Load the audio file that a user named, at most 30 s of it.

    Raises:
        UserError: no path, nothing there, or it cannot be used as audio.
    """
    if not str(audio_path).strip():
        raise UserError("no audio file given: name one, such as a.wav")
    path = Path(os.path.expanduser(audio_path))
    try:
        if not path.is_file():
            found = "it is a folder" if path.is_dir() else "no such file"
            where = "" if path.is_absolute() else f" (current directory: {Path.cwd()})"
            raise UserError(f"audio file {path}: {found}; check the path{where}")
        return load_waveform(path, long_audio=long_audio, extra_paths=extra_paths, span=span)
    except OSError as error:  # such as a name that is too long, or a folder that is locked
        raise UserError(f"audio file {path}: {error.strerror or error}; check the path") from error
