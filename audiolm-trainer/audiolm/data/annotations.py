"""Annotation files: which clips there are, and what is known about each.

In: a SALMONN annotation, `{"annotation": [{"path", "text", "task", "Q", "testset_id", ...}]}`.
Out: one `Clip` per entry, in the file's order. A mistake is told with the entry it is in.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.errors import UserError
from audiolm.json_file import load_json

DEFAULT_TASK = "asr"
MAX_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Clip:
    """One annotation entry.

    Attributes:
        index: position in the file, from 0.
        path: audio file as written in the annotation; see `resolve_audio_path`.
        texts: reference texts; empty when the entry has none.
        task: task name, a key of the prompt files.
        question: what a prompt's `{}` is filled with.
        testset_id: submission id, such as `test0000`.
        expand_wav: audio files to append, written like `path`.
        seconds: length of the clip as annotated (`duration` or `seconds`), if it is.
        source: name of the annotation file, where clips of several come together.
    """

    index: int
    path: str
    texts: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    question: str = ""
    testset_id: str | None = None
    expand_wav: tuple[str, ...] = ()
    seconds: float | None = None
    source: str = ""

    @property
    def place(self) -> str:
        """Where its entry is, for messages."""
        entry = f"annotation[{self.index}] ({self.path})"
        return f"{self.source}: {entry}" if self.source else entry


def load_annotation(
    path: str | Path, *, require_text: bool = False, require_testset_id: bool = False
) -> list[Clip]:
    """Read an annotation file.

    Args:
        path: the JSON file. Keys it has beyond the known ones are ignored.
        require_text: every entry must have a reference text (training, scoring).
        require_testset_id: every entry must have a `testset_id`, each its own (submissions).

    Raises:
        UserError: unreadable or malformed file; the message names the first wrong entries.
    """
    rows = _find_rows(path, load_json(path, "annotation"))
    clips = [Clip(index, *_read_row(row)) for index, row in _check_rows(path, rows)]
    problems = _find_missing(clips, require_text, require_testset_id)
    _raise_problems(path, problems)
    return clips


def resolve_audio_path(prefix: str | Path, path: str) -> Path:
    """Where an annotation's audio file is: below `prefix`, whether or not `path` starts with `/`.

    Without a prefix, `path` is taken as it is.

    Raises:
        UserError: `path` leads out of the prefix (through `..`).
    """
    if not str(prefix):
        return Path(path)
    inside = os.path.normpath(path.lstrip("/"))
    if inside.split(os.sep)[0] == os.pardir:
        raise UserError(f"audio path {path!r} leads out of datasets.prefix {str(prefix)!r}")
    return Path(prefix) / inside


def _find_rows(path: str | Path, content: Any) -> list[Any]:
    if isinstance(content, list):
        raise UserError(
            f'annotation {path} is a bare list; wrap it: {{"annotation": [ ...its entries... ]}}'
        )
    if not isinstance(content, dict) or "annotation" not in content:
        keys = list(content) if isinstance(content, dict) else []
        near = difflib.get_close_matches("annotation", keys, n=1)
        hint = f'; is "{near[0]}" meant?' if near else ""
        raise UserError(f'annotation {path} has no "annotation" list{hint}')
    rows = content["annotation"]
    if not isinstance(rows, list):
        raise UserError(f'annotation {path}: "annotation" must be a list of entries')
    if not rows:
        raise UserError(f'annotation {path}: "annotation" is an empty list, there is no clip in it')
    return rows


def _check_rows(path: str | Path, rows: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, once all of them are known to be well-formed."""
    problems = [
        f"annotation[{index}]: {problem}"
        for index, row in enumerate(rows)
        if (problem := _find_problem(row)) is not None
    ]
    _raise_problems(path, problems)
    return enumerate(rows)


def _find_problem(row: Any) -> str | None:
    """The first mistake in an entry, with its fix, or None."""
    if not isinstance(row, dict):
        return f'must be an object like {{"path": "a.wav", "text": "..."}}, not {row!r}'
    if not isinstance(row.get("path"), str) or not row["path"].strip("/"):
        found = f"is {row['path']!r}" if "path" in row else "is missing"
        return f'"path" {found}; give the audio file\'s path as a string'
    text = row.get("text")
    if not (text is None or isinstance(text, str) or _is_texts(text)):
        return f'"text" is {text!r}; give a string or a non-empty list of strings'
    for key in ("task", "Q", "testset_id"):
        if not isinstance(row.get(key), str | None):
            return f'"{key}" is {row[key]!r}; give a string'
    expand_wav = row.get("expand_wav")
    if expand_wav and not _is_texts(expand_wav):
        return f'"expand_wav" is {expand_wav!r}; give a list of audio paths'
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(item, str) for item in value)


def _read_row(row: dict[str, Any]) -> tuple[Any, ...]:
    """Fields of `Clip` after `index`, from a well-formed entry."""
    text = row.get("text")
    seconds: Any = row.get("duration", row.get("seconds"))
    is_length = isinstance(seconds, int | float) and seconds > 0
    return (
        row["path"],
        () if text is None else (text,) if isinstance(text, str) else tuple(text),
        row.get("task") or DEFAULT_TASK,
        row.get("Q") or "",
        row.get("testset_id"),
        tuple(row.get("expand_wav") or ()),
        float(seconds) if is_length else None,
    )


def _find_missing(clips: list[Clip], require_text: bool, require_testset_id: bool) -> list[str]:
    problems = []
    first_use: dict[str, int] = {}
    for clip in clips:
        place = f"annotation[{clip.index}]"
        if require_text and not clip.texts:
            problems.append(f'{place}: "text" is missing; it is needed to train and to score')
        if not require_testset_id:
            continue
        if not clip.testset_id:
            problems.append(f'{place}: "testset_id" is missing; a submission needs one per entry')
        elif (first := first_use.setdefault(clip.testset_id, clip.index)) != clip.index:
            problems.append(
                f'{place}: "testset_id" {clip.testset_id!r} is used before, in annotation[{first}];'
                " each entry needs its own"
            )
    return problems


def _raise_problems(path: str | Path, problems: list[str]) -> None:
    if not problems:
        return
    shown = "; ".join(problems[:MAX_SHOWN_PROBLEMS])
    num_hidden = len(problems) - MAX_SHOWN_PROBLEMS
    more = f" (and {num_hidden} more wrong entries)" if num_hidden > 0 else ""
    raise UserError(f"{path}: {shown}{more}")
