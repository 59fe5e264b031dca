"""Data commands: `python -m audiolm.data VERB ...`.

    python -m audiolm.data make-demo -o DIR [--seed N] [--num-speech N] [--num-scenes N] ...

Each verb is a subcommand. Results go to stdout, progress to stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from audiolm.errors import run_command

_COUNTS = {
    "num-speech": (9000, "training utterances"),
    "num-scenes": (2500, "training sound scenes"),
    "num-valid-speech": (100, "validation utterances"),
    "num-valid-scenes": (60, "validation scenes"),
    "num-test-speech": (200, "test utterances, in voices never trained on"),
    "num-test-scenes": (150, "test scenes"),
}


def main(arguments: Sequence[str]) -> int:
    """Run one data command; returns the exit status."""
    options = _build_parser().parse_args(arguments)
    return options.run(options)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m audiolm.data", description="Data commands.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    demo = verbs.add_parser(
        "make-demo",
        help="make the demo corpus of synthetic speech and sounds",
        description="Make the demo corpus. A finished corpus with the same options is reused.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make it in")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    for name, (default, text) in _COUNTS.items():
        demo.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    demo.add_argument("--num-processes", type=int, default=2, metavar="N", help="processes at work")
    demo.add_argument("--debug", action="store_true", help="show tracebacks")
    demo.set_defaults(run=_make_demo)
    return parser


def _make_demo(arguments: argparse.Namespace) -> int:
    from audiolm.data.demo.corpus import build_corpus
    from audiolm.data.demo.plan import CorpusOptions

    counts = {
        name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in _COUNTS
    }
    summary = build_corpus(
        arguments.output,
        CorpusOptions(seed=arguments.seed, **counts),
        num_processes=arguments.num_processes,
        report=lambda line: print(line, file=sys.stderr),
    )
    verb = "found" if summary.was_reused else "made"
    print(
        f"{verb} the demo corpus in {summary.folder}: {summary.audio_seconds / 60:.0f} min of audio"
    )
    for name, count in summary.num_clips.items():
        print(f"  {name:<20}{count:>6} clips")
    return 0


if __name__ == "__main__":
    run_command(main)
