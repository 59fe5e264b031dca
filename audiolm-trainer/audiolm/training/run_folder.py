"""The folder of one run: its own, named by experiment and time, never one that exists."""

import datetime
from pathlib import Path


def create_run_folder(output_dir: str, exp_name: str) -> Path:
    """Make `output_dir/exp_name_YYYYMMDD-HHMMSS`, with a number when that is taken."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path(output_dir or "outputs") / f"{exp_name or 'audiolm'}_{stamp}"
    attempt = 1
    while True:
        folder = base if attempt == 1 else base.with_name(f"{base.name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return folder
