"""Write a run's report again: `python -m audiolm.training.report RUN_FOLDER`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from audiolm.errors import run_command
from audiolm.training.report import write_report


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m audiolm.training.report",
        description="Write report.html of a training run from its folder.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER", help="the run's folder")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    print(write_report(parser.parse_args(arguments).run_folder))
    return 0


if __name__ == "__main__":
    run_command(main)
