"""`split`, `merge`, `subset` and `rewrite-paths`: annotations out of annotations."""

import argparse
from typing import Any

from audiolm.data.commands.shared import (
    Result,
    add_command,
    add_output,
    read_count,
    read_pairs,
)


def add_parser(verbs: Any) -> None:
    """The four verbs and their options."""
    _add_split(verbs)
    merge = add_command(verbs, "merge", run_merge, "put annotations together, each entry once")
    merge.add_argument("annotations", nargs="+", metavar="ANN", help="annotations, in their order")
    merge.add_argument("--renumber", action="store_true", help="give new testset_ids")
    add_output(merge, "annotation to write")
    _add_subset(verbs)
    rewrite = add_command(
        verbs, "rewrite-paths", run_rewrite_paths, "replace the start of every path"
    )
    rewrite.add_argument("annotation", metavar="ANN", help="annotation to read")
    rewrite.add_argument("--from", dest="old", default="", metavar="DIR", help="start to replace")
    rewrite.add_argument("--to", dest="new", default="", metavar="DIR", help="what takes its place")
    rewrite.add_argument("--prefix", metavar="DIR", help="check that the files are there, below it")
    rewrite.add_argument(
        "--drop-missing", action="store_true", help="leave out entries without a file"
    )
    add_output(rewrite, "annotation to write")


def _add_split(verbs: Any) -> None:
    split = add_command(
        verbs,
        "split",
        run_split,
        "deal an annotation out into train, valid and test",
        "Deal an annotation out into train, valid and test, every task in the same proportion. "
        "Entries of one audio file stay together, and entries added later move no old ones. The "
        "test part gets testset_ids.",
    )
    split.add_argument("annotation", metavar="ANN", help="annotation to deal out")
    split.add_argument("--valid", type=float, default=0.05, help="fraction; 0: no such part")
    split.add_argument("--test", type=float, default=0.05, help="fraction; 0: no such part")
    split.add_argument("--seed", type=int, default=0, help="another one deals out otherwise")
    split.add_argument(
        "--group", default="path", metavar="KEY", help="entries equal in it stay together"
    )
    split.add_argument(
        "--format", choices=("json", "jsonl", "jsonl.gz"), default="json", help="of the parts"
    )
    add_output(split, "folder for train.json, valid.json and test.json", metavar="DIR")


def _add_subset(verbs: Any) -> None:
    subset = add_command(verbs, "subset", run_subset, "take some entries")
    subset.add_argument("annotation", metavar="ANN", help="annotation to take from")
    subset.add_argument("--task", nargs="+", default=[], help="take only these tasks")
    subset.add_argument(
        "--where", nargs="+", default=[], metavar="KEY=VALUE", help="such as corpus=clotho"
    )
    subset.add_argument("--min-seconds", type=float, metavar="S", help="shortest annotated length")
    subset.add_argument("--max-seconds", type=float, metavar="S", help="longest annotated length")
    subset.add_argument("--num", type=read_count, metavar="N", help="draw so many")
    subset.add_argument("--seed", type=int, default=0, help="of the draw")
    add_output(subset, "annotation to write")


def run_split(arguments: argparse.Namespace) -> Result:
    """Split and print what is where."""
    from audiolm.data.splitting import PARTS, split_annotation

    report = split_annotation(
        arguments.annotation,
        arguments.output,
        valid=arguments.valid,
        test=arguments.test,
        seed=arguments.seed,
        group_key=arguments.group,
        suffix=f".{arguments.format}",
        overwrite=arguments.overwrite,
    )
    parts = [part for part in PARTS if part in report.files]
    lines = [f"wrote {report.files[part]}: {report.num_entries[part]:,} entries" for part in parts]
    lines.append(f"  {'task':<24}" + "".join(f"{part:>10}" for part in parts))
    for task, counts in sorted(report.by_task.items()):
        lines.append(f"  {task:<24}" + "".join(f"{counts[part]:>10,}" for part in parts))
        empty = [part for part in parts if not counts[part]]
        if empty:
            lines.append(f"    none in {', '.join(empty)}: try a larger fraction or another --seed")
    return Result(lines)


def run_merge(arguments: argparse.Namespace) -> Result:
    """Merge and print the counts."""
    from audiolm.data.reshaping import merge_annotations

    report = merge_annotations(
        arguments.annotations,
        arguments.output,
        renumbers=arguments.renumber,
        overwrite=arguments.overwrite,
    )
    lines = [f"wrote {arguments.output}: {report.num_written:,} of {report.num_read:,} entries"]
    if report.num_repeated:
        lines.append(f"  left out: {report.num_repeated:,} that occur before")
    if report.num_other_texts:
        lines.append(f"  kept: {report.num_other_texts:,} with other texts of the same audio")
    return Result(lines)


def run_subset(arguments: argparse.Namespace) -> Result:
    """Choose and print the counts."""
    from audiolm.data.reshaping import Selection, take_subset

    selection = Selection(
        tasks=tuple(arguments.task),
        where=read_pairs(arguments.where, "--where"),
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        num_entries=arguments.num,
        seed=arguments.seed,
    )
    report = take_subset(
        arguments.annotation, arguments.output, selection, overwrite=arguments.overwrite
    )
    line = f"wrote {arguments.output}: {report.num_written:,} of {report.num_read:,} entries"
    return Result([line])


def run_rewrite_paths(arguments: argparse.Namespace) -> Result:
    """Rewrite and print the counts."""
    from audiolm.data.reshaping import rewrite_paths

    report = rewrite_paths(
        arguments.annotation,
        arguments.output,
        old=arguments.old,
        new=arguments.new,
        prefix=arguments.prefix,
        drops_missing=arguments.drop_missing,
        overwrite=arguments.overwrite,
    )
    lines = [f"wrote {arguments.output}: {report.num_written:,} of {report.num_read:,} entries"]
    if report.num_unchanged:
        lines.append(f"  {report.num_unchanged:,} have paths that start otherwise and stay")
    if report.num_missing:
        lines.append(f"  left out: {report.num_missing:,} without a file, {report.first_missing}")
    return Result(lines)
