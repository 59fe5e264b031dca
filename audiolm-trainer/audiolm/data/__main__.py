"""Data commands: `python -m audiolm.data VERB ...`.

    python -m audiolm.data import KIND SRC -o OUT.json   a corpus becomes an annotation
    python -m audiolm.data check ANN --prefix DIR        every clip decoded, problems told
    python -m audiolm.data stats ANN                     counts, hours, lengths, words
    python -m audiolm.data split ANN -o DIR              train, valid and test
    python -m audiolm.data merge ANN ANN -o OUT.json     one annotation, each entry once
    python -m audiolm.data subset ANN -o OUT.json        some of the entries
    python -m audiolm.data rewrite-paths ANN -o OUT.json other paths
    python -m audiolm.data leaks A B --prefix DIR        what train and test have in common
    python -m audiolm.data shard ANN --prefix DIR -o DIR tar shards with an index
    python -m audiolm.data make-demo -o DIR              the demo corpus

Each verb is a subcommand with its own `--help`. Results go to stdout, progress to stderr.
"""

import argparse
from collections.abc import Sequence

from audiolm.data.commands import checking, describing, importing, making_demo, reshaping, sharding
from audiolm.errors import run_command

COMMANDS = (importing, checking, describing, reshaping, sharding, making_demo)


def main(arguments: Sequence[str]) -> int:
    """Run one data command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    result = options.run(options)
    for line in result.lines:
        print(line)
    return result.status


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    parser = argparse.ArgumentParser(prog="python -m audiolm.data", description="Data commands.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for command in COMMANDS:
        command.add_parser(verbs)
    return parser


if __name__ == "__main__":
    run_command(main)
