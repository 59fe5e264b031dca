"""Annotation files: which clips there are, and what is known about each.

In: a SALMONN annotation, `{"annotation": [{"path", "text", "task", "Q", "testset_id", ...}]}`, or
the same entries one a line (`.jsonl`, `.jsonl.gz`). Out: one `Clip` per entry, in the file's order.
A mistake is told with the entry it is in.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audiolm.data.clips import Clip, IndexedClips, find_problem, group_by_task, read_clip
from audiolm.data.entries import iterate_entries
from audiolm.errors import UserError
from audiolm.prompts import PromptBook

MAX_SHOWN_PROBLEMS = 3
INDEXED_FROM_BYTES = 1 << 22
GZIP_RATIO = 8  # of annotations, roughly


def load_annotation(
    path: str | Path, *, require_text: bool = False, require_testset_id: bool = False
) -> Sequence[Clip]:
    """Read an annotation file.

    A small one becomes a list; of a large one (4 MB) an index is made on disk once, and no clip
    is held in memory: see `clip_index`.

    Args:
        path: the file. Keys it has beyond the known ones are ignored.
        require_text: every entry must have a reference text (training, scoring).
        require_testset_id: every entry must have a `testset_id`, each its own (submissions).

    Raises:
        UserError: unreadable or malformed file; the message names the first wrong entries.
    """
    clips: Sequence[Clip]
    if _is_large(path):
        from audiolm.data.clip_index import open_index  # pyarrow is for large annotations only

        clips = open_index(path)
    else:
        clips = list(iterate_clips(path))
    check_clips(path, clips, require_text=require_text, require_testset_id=require_testset_id)
    return clips


def iterate_clips(path: str | Path) -> Iterator[Clip]:
    """The clips of an annotation, one in memory at a time.

    Raises:
        UserError: as `load_annotation`; wrong entries when the last clip has been given.
    """
    problems = _Problems(path)
    for index, row in enumerate(iterate_entries(path)):
        problem = find_problem(row)
        if problem is None:
            yield read_clip(index, row)
        else:
            problems.add(f"annotation[{index}]: {problem}")
    problems.raise_any()


def check_clips(
    path: str | Path,
    clips: Iterable[Clip],
    *,
    require_text: bool = False,
    require_testset_id: bool = False,
) -> None:
    """See that each clip has what is needed; `path` is named in the message.

    Raises:
        UserError: naming the first entries that have not.
    """
    if isinstance(clips, IndexedClips):
        require_text = require_text and not clips.has_all_texts
    if not (require_text or require_testset_id):
        return
    problems = _Problems(path)
    first_use: dict[str, int] = {}
    for clip in clips:
        place = f"annotation[{clip.index}]"
        if require_text and not clip.texts:
            problems.add(f'{place}: "text" is missing; add it: training and scores need it')
        if not require_testset_id:
            continue
        if not clip.testset_id:
            problems.add(f'{place}: "testset_id" is missing; add one, such as "test0000"')
        elif (first := first_use.setdefault(clip.testset_id, clip.index)) != clip.index:
            problems.add(
                f'{place}: "testset_id" {clip.testset_id!r} is used before, in annotation[{first}];'
                " each entry needs its own"
            )
    problems.raise_any()


def check_tasks(path: str | Path, clips: Sequence[Clip], prompts: PromptBook) -> None:
    """See that each clip's task has a prompt; `path` is named where the clips name no file.

    Raises:
        UserError: naming the first clip whose task has none.
    """
    for task, positions in group_by_task(clips).items():
        try:
            prompts.choices(task)
        except UserError as error:
            clip = clips[int(positions[0])]
            place = clip.place if clip.source else f"{path}: {clip.place}"
            more = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            raise UserError(
                f'{place}{more}: {error}; correct "task" there, or add the task to the prompts'
            ) from error


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


def _is_large(path: str | Path) -> bool:
    try:
        num_bytes = Path(path).stat().st_size
    except OSError:
        return False  # reading it tells what is wrong
    return num_bytes * (GZIP_RATIO if str(path).endswith(".gz") else 1) >= INDEXED_FROM_BYTES


@dataclass
class _Problems:
    """The first few mistakes of a file, and how many there are."""

    path: str | Path
    first: list[str] = field(default_factory=list)
    num_all: int = 0

    def add(self, problem: str) -> None:
        self.num_all += 1
        if len(self.first) < MAX_SHOWN_PROBLEMS:
            self.first.append(problem)

    def raise_any(self) -> None:
        if not self.first:
            return
        num_hidden = self.num_all - len(self.first)
        more = f" (and {num_hidden} more wrong entries)" if num_hidden else ""
        raise UserError(f"{self.path}: {'; '.join(self.first)}{more}")
