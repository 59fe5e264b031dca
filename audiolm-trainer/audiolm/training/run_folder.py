"""The folder of one run: its own, named by experiment and time, never one that exists."""

import datetime
from pathlib import Path

from audiolm.errors import UserError

DEFAULT_OUTPUT_DIR = "outputs"


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
    base = Path(output_dir or DEFAULT_OUTPUT_DIR) / f"{exp_name or 'audiolm'}_{stamp}"
    attempt = 1
    while True:
        folder = base if attempt == 1 else base.with_name(f"{base.name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return folder
