"""`make-demo`: the demo corpus of synthetic speech and sounds."""

import argparse
import sys
from typing import Any

from audiolm.data.commands.shared import Result, add_command

COUNTS = {
    "num-speech": (9000, "training utterances"),
    "num-scenes": (2500, "training sound scenes"),
    "num-valid-speech": (100, "validation utterances"),
    "num-valid-scenes": (60, "validation scenes"),
    "num-test-speech": (200, "test utterances, in voices never trained on"),
    "num-test-scenes": (150, "test scenes"),
}


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    parser = add_command(
        verbs,
        "make-demo",
        run,
        "make the demo corpus of synthetic speech and sounds",
        "Make the demo corpus. A finished corpus with the same options is reused.",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make it in")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all randomness")
    for name, (default, text) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    parser.add_argument(
        "--num-processes", type=int, default=2, metavar="N", help="processes at work"
    )


def run(arguments: argparse.Namespace) -> Result:
    """Make or find the corpus."""
    from audiolm.data.demo.corpus import build_corpus
    from audiolm.data.demo.plan import CorpusOptions

    names = [name.replace("-", "_") for name in COUNTS]
    summary = build_corpus(
        arguments.output,
        CorpusOptions(seed=arguments.seed, **{name: getattr(arguments, name) for name in names}),
        num_processes=arguments.num_processes,
        report=print_progress,
    )
    verb = "found" if summary.was_reused else "made"
    minutes = summary.audio_seconds / 60
    lines = [f"{verb} the demo corpus in {summary.folder}: {minutes:.0f} min of audio"]
    lines += [f"  {name:<20}{count:>6} clips" for name, count in summary.num_clips.items()]
    return Result(lines)


def print_progress(line: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
