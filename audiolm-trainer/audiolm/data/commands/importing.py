"""`import`: a published corpus becomes an annotation."""

import argparse
from pathlib import Path
from typing import Any

from audiolm.data.commands.shared import (
    Result,
    add_command,
    add_output,
    build_bar,
    describe_hours,
    read_pairs,
)

KIND_NAMES = (
    "librispeech", "gigaspeech", "audiocaps", "clotho", "wavcaps", "nemo", "hf", "salmonn", "csv",
)  # fmt: skip


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    parser = add_command(
        verbs,
        "import",
        run,
        "make an annotation of a corpus on disk",
        "Make an annotation of a corpus on disk. docs/data.md has an example of each.",
    )
    parser.add_argument("kind", choices=KIND_NAMES, metavar="KIND", help=" | ".join(KIND_NAMES))
    parser.add_argument("source", metavar="SRC", help="the corpus's folder, or its table or JSON")
    add_output(parser, "annotation to write: .json, .jsonl or .jsonl.gz")
    parser.add_argument("--task", default="", help="task of the entries; empty: the corpus's own")
    parser.add_argument(
        "--part", nargs="+", default=[], help="subsets to take, by the corpus's names; default all"
    )
    parser.add_argument(
        "--prefix", metavar="DIR", help="folder that the paths shall start from; default SRC's own"
    )
    parser.add_argument("--audio-dir", metavar="DIR", help="where the audio is, if not as usual")
    parser.add_argument(
        "--audio-name", default="", metavar="NAME", help="audiocaps: as {youtube_id}_{start_time}"
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="KEY=COLUMN", help="csv, hf: unusual columns"
    )
    parser.add_argument(
        "--missing",
        choices=("error", "drop", "keep"),
        default="error",
        help="entries whose audio is missing or unreadable: write nothing, or leave them out or in",
    )
    parser.add_argument(
        "--keep-case", action="store_true", help="librispeech, gigaspeech: leave capitals"
    )
    parser.add_argument(
        "--punctuation", action="store_true", help="gigaspeech: write <COMMA> as a comma"
    )
    parser.add_argument(
        "--testset-ids", action="store_true", help="number the entries test0000, test0001, ..."
    )


def run(arguments: argparse.Namespace) -> Result:
    """Import and tell what came of it."""
    from audiolm.data.importers.importing import import_corpus
    from audiolm.data.importers.sources import ImportOptions

    options = ImportOptions(
        parts=tuple(arguments.part),
        audio_dir=Path(arguments.audio_dir).absolute() if arguments.audio_dir else None,
        audio_name=arguments.audio_name,
        columns=read_pairs(arguments.columns, "--columns"),
        keeps_case=arguments.keep_case,
        keeps_punctuation=arguments.punctuation,
    )
    with build_bar(f"import {arguments.kind}", unit="entries") as bar:
        report = import_corpus(
            arguments.kind,
            arguments.source,
            arguments.output,
            options=options,
            task=arguments.task,
            prefix=arguments.prefix,
            missing=arguments.missing,
            has_testset_ids=arguments.testset_ids,
            overwrite=arguments.overwrite,
            report_progress=lambda num_entries: bar.update(num_entries - bar.n),
        )
    hours = describe_hours(report.seconds)
    lines = [f"wrote {arguments.output}: {report.num_entries:,} entries, {hours}"]
    lines += [
        f"  left out: {count:,} {reason}" for reason, count in report.left_out.items() if count
    ]
    if report.first_unusable:
        lines.append(f"  first unusable: {report.first_unusable}")
    lines.append(f"datasets.prefix: {report.prefix}")
    return Result(lines)
