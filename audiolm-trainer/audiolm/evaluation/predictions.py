"""What became of each clip, on disk from the moment it is known.

In: `Prediction`s. Out: a JSONL file, one clip per line; reading it back needs no model.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from audiolm.errors import UserError

FILE_NAME = "predictions.jsonl"
REQUIRED_KEYS = ("index", "id", "task", "text")


@dataclass(frozen=True)
class Prediction:
    """What became of one clip: a line of the file.

    Attributes:
        index: the clip's position in the annotation, from 0.
        id: its path as written there.
        testset_id: its submission id, if it has one.
        task: its task.
        prompt: the whole prompt, template included.
        references: its reference texts; empty where there are none.
        text: the answer, cleaned (`models.decode.Answer`); empty for a skipped clip.
        raw_text: the answer as the LLM wrote it.
        num_tokens: new tokens of the answer, without the end token.
        stop_reason: `end_token`, `end_text`, `max_new_tokens`, `runaway` or `looping`; `skipped`.
        log_probability: of the whole answer, natural logarithm.
        audio_seconds: audio the model was given: at least 1, at most 30 per chunk.
        seconds: wall time of its batch divided by the clips in it.
        was_truncated: whether audio beyond 30 s was cut off.
        num_chunks: pieces that long audio was decoded in; their texts are joined by spaces.
        skipped: why the clip was left out; None when it was decoded.
    """

    index: int
    id: str
    testset_id: str | None
    task: str
    prompt: str
    text: str
    references: list[str] = field(default_factory=list)
    raw_text: str = ""
    num_tokens: int = 0
    stop_reason: str = ""
    log_probability: float = 0.0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    was_truncated: bool = False
    num_chunks: int = 1
    skipped: str | None = None


class PredictionFile:
    """Appends predictions to a file and has each batch on disk before the next.

    Args:
        path: made when the first batch comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions and have them on disk."""
        if self._file is None:
            # A lone surrogate, which no UTF-8 file can hold, is written as its escape.
            self._file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
        self._file.writelines(map(format_line, predictions))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def format_line(prediction: Prediction) -> str:
    """A prediction as a line of the file."""
    return json.dumps(dataclasses.asdict(prediction), ensure_ascii=False) + "\n"


def save_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write all predictions, in the order of the annotation; the file is whole or not there."""
    unfinished_path = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    ordered = sorted(predictions, key=lambda prediction: prediction.index)
    try:
        with unfinished_path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(map(format_line, ordered))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished_path, path)
    finally:
        unfinished_path.unlink(missing_ok=True)


def find_predictions(path: str | Path) -> Path:
    """The predictions file that a path means: the file, or the one in an evaluation's folder.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    found = path / FILE_NAME if path.is_dir() else path
    if not found.is_file():
        raise UserError(
            f"no predictions at {found}: give the folder of an evaluation, such as "
            f"valid_results/DATE_valid_asr, or its {FILE_NAME}"
        )
    return found


def load_predictions(path: Path, *, may_be_cut: bool = False) -> list[Prediction]:
    """Read a file of predictions; keys it has beyond the known ones are ignored.

    Args:
        path: the JSONL file.
        may_be_cut: an incomplete last line, as a crash leaves it, is dropped.

    Raises:
        UserError: a line that is no prediction, or the same clip twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"predictions {path} are not UTF-8 (byte {error.start})") from error
    if may_be_cut:
        lines.pop()  # empty after a whole last line
    predictions = [
        _read_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()
    ]
    first_line: dict[int, int] = {}
    for number, prediction in enumerate(predictions, start=1):
        first = first_line.setdefault(prediction.index, number)
        if first != number:
            raise UserError(
                f"predictions {path}: clip {prediction.index} ({prediction.id}) is in line {first} "
                f"and again in line {number}; one line per clip is allowed"
            )
    if not predictions and not may_be_cut:
        raise UserError(f"predictions {path} hold no clip")
    return predictions


def _read_line(path: Path, number: int, line: str) -> Prediction:
    place = f"predictions {path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON: {error.msg}; restore the file") from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}: is it a file of predictions?")
    values = {name: row[name] for name in _FIELDS if row.get(name) is not None}
    wrong = [name for name, value in values.items() if not isinstance(value, _FIELDS[name])]
    if wrong:
        raise UserError(f"{place}: {wrong[0]} is {values[wrong[0]]!r}, of the wrong type")
    return Prediction(**{"testset_id": None, "prompt": "", **values})


_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {
    "index": int,
    "id": str,
    "testset_id": str,
    "task": str,
    "prompt": str,
    "text": str,
    "references": list,
    "raw_text": str,
    "num_tokens": int,
    "stop_reason": str,
    "log_probability": _NUMBER,
    "audio_seconds": _NUMBER,
    "seconds": _NUMBER,
    "was_truncated": bool,
    "num_chunks": int,
    "skipped": str,
}
