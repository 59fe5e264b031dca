"""The folder of one run: its own, named by experiment and time, never one that exists."""

import datetime
import re
from pathlib import Path

from audiolm.errors import UserError

DEFAULT_OUTPUT_DIR = "outputs"
DEFAULT_NAME = "audiolm"
STAMP = re.compile(r"\d{8}-\d{6}(_\d+)?")


def check_output_dir(output_dir: str) -> None:
    """See that runs may be made below it.

    Raises:
        UserError: it is the folder of a run itself.
    """
    if (Path(output_dir or DEFAULT_OUTPUT_DIR) / "log.jsonl").is_file():
        raise UserError(
            f"run.output_dir: {output_dir} is the folder of a run; go on with that run by --resume "
            f"{output_dir}, or name another folder (each run makes its own below it)"
        )


def create_run_folder(output_dir: str, exp_name: str) -> Path:
    """Make `output_dir/exp_name_YYYYMMDD-HHMMSS`, with a number when that is taken."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path(output_dir or DEFAULT_OUTPUT_DIR) / f"{exp_name or DEFAULT_NAME}_{stamp}"
    attempt = 1
    while True:
        folder = base if attempt == 1 else base.with_name(f"{base.name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return folder


def find_run_folders(output_dir: str, exp_name: str) -> list[Path]:
    """What `create_run_folder` made under these names and no other, the newest first."""
    base = Path(output_dir or DEFAULT_OUTPUT_DIR) / f"{exp_name or DEFAULT_NAME}_"
    if not base.parent.is_dir():
        return []
    folders = [
        path
        for path in base.parent.iterdir()
        if path.name.startswith(base.name)
        and STAMP.fullmatch(path.name.removeprefix(base.name))
        and (path / "config.yaml").is_file()
    ]
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
