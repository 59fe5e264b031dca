"""`shard`: an annotation's clips become tar shards with an index."""

import argparse
from typing import Any

from audiolm.data.commands.shared import (
    Result,
    add_command,
    add_num_processes,
    add_output,
    add_prefix,
    build_bar,
    read_count,
)

BYTES_PER_MB = 1e6


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    parser = add_command(
        verbs,
        "shard",
        run,
        "pack clips into tar shards in webdataset's layout",
        "Pack clips into tar shards in webdataset's layout. Training reads them through the "
        "annotation.jsonl in the new folder, in the same order as the files.",
    )
    parser.add_argument("annotation", metavar="ANN", help="annotation to pack")
    add_prefix(parser)
    add_num_processes(parser)
    parser.add_argument(
        "--max-mb", type=float, default=1000.0, metavar="MB", help="size of a shard, 10^6 bytes"
    )
    parser.add_argument(
        "--max-clips", type=read_count, default=100_000, metavar="N", help="clips of a shard"
    )
    parser.add_argument(
        "--base", metavar="DIR", help="prefix that training shall have; default: the new folder"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out clips that cannot be read"
    )
    add_output(parser, "folder to make", metavar="DIR")


def run(arguments: argparse.Namespace) -> Result:
    """Pack and print what is where."""
    from audiolm.data.shard_writing import INDEX_NAME, write_shards

    with build_bar("shard") as bar:
        report = write_shards(
            arguments.annotation,
            arguments.output,
            prefix=arguments.prefix,
            max_bytes=arguments.max_mb * BYTES_PER_MB,
            max_clips=arguments.max_clips,
            base=arguments.base,
            skips_bad=arguments.skip_bad,
            num_processes=arguments.num_processes,
            overwrite=arguments.overwrite,
            report_progress=lambda num_clips: bar.update(num_clips - bar.n),
        )
    formats = ", ".join(f"{count:,} {suffix}" for suffix, count in report.suffixes.most_common())
    lines = [
        f"wrote {arguments.output}: {report.num_clips:,} clips ({formats}) in "
        f"{report.num_shards:,} shards, {report.num_bytes / BYTES_PER_MB:,.1f} MB"
    ]
    if report.num_unusable:
        lines.append(f"  left out: {report.num_unusable:,} clips; first: {report.first_unusable}")
    lines.append(f"annotation: {arguments.output}/{INDEX_NAME}")
    return Result([*lines, f"datasets.prefix: {arguments.base or arguments.output}"])
