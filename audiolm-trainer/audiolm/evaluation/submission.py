"""Submission files: where one goes, and writing it whole or not at all.

In: test-set ids and texts, in the order of the annotation. Out: a UTF-8 CSV with the header
`testset_id,text` and one row per entry. `submission_validator.py` checks such a file.
"""

import csv
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from audiolm.errors import UserError

HEADER = ("testset_id", "text")
# where the predictions of each mode of evaluate_salmonn.py go, under the results' root
MODE_FOLDERS = {
    "submission_asr": "submission_results",
    "submission_aac": "submission_results",
    "valid_asr": "valid_results",
    "valid_aac": "valid_results",
}
# other evaluations: by task (`--tasks` alone), in place of training, of saved predictions
RESULT_FOLDERS = {
    **MODE_FOLDERS,
    "valid_tasks": "valid_results",
    "test_set": "valid_results",
    "rescore": "valid_results",
}

# every character some reader takes for the end of a line, and NUL, which some cannot read
_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x00]")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def write_submission(path: str | Path, ids: Sequence[str], texts: Sequence[str]) -> None:
    """Write one row per clip, in order; line breaks inside a text become spaces.

    The file appears complete or not at all: it is written under another name in the same folder,
    flushed to disk, and renamed. Missing folders are made. A file already at `path` is replaced
    (`submission_path` gives names that are free).

    Raises:
        UserError: different numbers of ids and texts.
        OSError: the folder or the file cannot be written; nothing is left behind.
    """
    if len(ids) != len(texts):
        raise UserError(
            f"{len(ids)} ids for {len(texts)} texts: a submission needs one text per entry"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished_path = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished_path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows(zip(ids, map(_one_line, texts), strict=True))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished_path, path)
    finally:
        unfinished_path.unlink(missing_ok=True)


def submission_path(mode: str, root: str | Path = ".", now: datetime | None = None) -> Path:
    """A free, dated path for the predictions of `mode`, such as
    `submission_results/2026-01-31_14-05-09_submission_asr.csv` under `root`.

    A name that is taken, by the file or by an evaluation's folder, gets a counter
    (`..._submission_asr_2.csv`). No folder is made.

    Raises:
        UserError: unknown mode.
    """
    if mode not in RESULT_FOLDERS:
        raise UserError(f"unknown mode {mode!r}: choose one of {', '.join(MODE_FOLDERS)}")
    stem = f"{now or datetime.now():%Y-%m-%d_%H-%M-%S}_{mode}"
    path = Path(root) / RESULT_FOLDERS[mode] / f"{stem}.csv"
    counter = 2
    while path.exists() or path.with_suffix("").exists():
        path = path.with_name(f"{stem}_{counter}.csv")
        counter += 1
    return path


def _one_line(text: str) -> str:
    return _LONE_SURROGATES.sub("\ufffd", _LINE_BREAKS.sub(" ", text))
