"""A training run's picture: `report.html`, written from its run folder alone.

In: the folder of a run that is running, stopped or finished: config.yaml, log.jsonl, and when they
are there samples.json with its audio, and summary.json. Out: `report.html` in the same folder, one
file that shows itself in any browser, without a network. `python -m audiolm.training.report
RUN_FOLDER` does it again later.
"""

import os
from pathlib import Path

from audiolm.errors import UserError
from audiolm.training.report.history import read_history
from audiolm.training.report.page import build_page

REPORT_NAME = "report.html"


def write_report(folder: Path) -> Path:
    """Write `folder/report.html`, whole or not at all, over an earlier one; returns its path.

    A log line that a kill cut short, or a file that an older version wrote, does not matter.

    Raises:
        UserError: `folder` is no run folder.
        OSError: a file cannot be read, or the report not be written; an earlier one stays.
    """
    if not any((folder / name).is_file() for name in ("config.yaml", "log.jsonl")):
        raise UserError(f"{folder} is no run folder (it has neither config.yaml nor log.jsonl)")
    page = build_page(read_history(folder), folder)
    path = folder / REPORT_NAME
    unfinished_path = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished_path.open("w", encoding="utf-8", errors="replace") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished_path, path)
    finally:
        unfinished_path.unlink(missing_ok=True)
    return path
