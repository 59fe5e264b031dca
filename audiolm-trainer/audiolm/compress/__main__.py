"""Commands that make a trained model smaller or simpler: `python -m audiolm.compress VERB ...`.

    python -m audiolm.compress merge  --cfg-path X.yaml --calibration ANN -o DIR   adapter into LLM
    python -m audiolm.compress export --cfg-path X.yaml --calibration ANN -o DIR   one folder of all
    python -m audiolm.compress prune  --cfg-path X.yaml --calibration ANN -o DIR   layers dropped

Each verb is a subcommand with its own `--help`. Results go to stdout, warnings to stderr.
"""

import argparse
from collections.abc import Sequence

from audiolm.compress.commands import exporting, merging, pruning
from audiolm.errors import run_command

COMMANDS = (merging, exporting, pruning)


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    result = options.run(options)
    for line in result.lines:
        print(line)
    return result.status


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="python -m audiolm.compress", description="Make a trained model smaller or simpler."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for command in COMMANDS:
        command.add_parser(verbs)
    return parser


if __name__ == "__main__":
    run_command(main)
