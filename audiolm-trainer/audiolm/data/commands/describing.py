"""`stats` and `leaks`: what is in an annotation, and what two have in common."""

import argparse
from typing import Any

from audiolm.data.commands.shared import (
    Result,
    add_command,
    add_num_processes,
    add_overwrite,
    build_bar,
    read_count,
    save_json,
)

SHOWN_LEAKS = 5


def add_parser(verbs: Any) -> None:
    """Both verbs and their options."""
    stats = add_command(verbs, "stats", run_stats, "count clips, hours, lengths and words")
    stats.add_argument("annotation", metavar="ANN", help="annotation to describe")
    stats.add_argument("--prefix", metavar="DIR", help="read lengths that are not annotated there")
    stats.add_argument("--html", metavar="FILE", help="write a page with pictures as well")
    add_overwrite(stats)
    leaks = add_command(
        verbs,
        "leaks",
        run_leaks,
        "find what two annotations have in common",
        "Find audio and texts of annotation B (test) that are in A (train) too. Exit status: 0 "
        "none, 1 some, 2 not checkable.",
    )
    leaks.add_argument("a", metavar="A", help="annotation, such as the training one")
    leaks.add_argument("b", metavar="B", help="annotation, such as the test one")
    leaks.add_argument("--prefix", default="", metavar="DIR", help="folder of A's audio, and B's")
    leaks.add_argument("--prefix-b", metavar="DIR", help="folder of B's audio, if it is another")
    leaks.add_argument(
        "--by",
        nargs="+",
        choices=("path", "audio", "text"),
        default=["path", "audio", "text"],
        help="the same file name, the same samples, the same words",
    )
    leaks.add_argument(
        "--min-words", type=read_count, default=1, metavar="N", help="of texts that are compared"
    )
    leaks.add_argument("--json", metavar="FILE", help="write every leak as JSON")
    add_num_processes(leaks)
    add_overwrite(leaks)


def run_stats(arguments: argparse.Namespace) -> Result:
    """Count and print; draw on demand."""
    from audiolm.data.outputs import check_output, whole_file
    from audiolm.data.statistics import compute_statistics
    from audiolm.data.statistics_page import format_html, format_text

    if arguments.html:
        check_output(arguments.html, overwrite=arguments.overwrite, sources=[arguments.annotation])
    with build_bar("stats") as bar:
        statistics = compute_statistics(
            arguments.annotation,
            prefix=arguments.prefix,
            report_progress=lambda num_entries: bar.update(num_entries - bar.n),
        )
    lines = format_text(statistics)
    if arguments.html:
        with whole_file(arguments.html, overwrite=arguments.overwrite) as temporary:
            page = format_html(statistics, str(arguments.annotation))
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        lines.append(f"wrote {arguments.html}")
    return Result(lines)


def run_leaks(arguments: argparse.Namespace) -> Result:
    """Compare and print."""
    from audiolm.data.leaks import find_leaks
    from audiolm.data.outputs import check_output

    if arguments.json:
        check_output(
            arguments.json, overwrite=arguments.overwrite, sources=[arguments.a, arguments.b]
        )
    prefix_b = arguments.prefix if arguments.prefix_b is None else arguments.prefix_b
    with build_bar("leaks") as bar:
        report = find_leaks(
            arguments.a,
            arguments.b,
            prefix_a=arguments.prefix,
            prefix_b=prefix_b,
            kinds=arguments.by,
            min_words=arguments.min_words,
            num_processes=arguments.num_processes,
            report_progress=lambda num_entries: bar.update(num_entries - bar.n),
        )
    num_a, num_b = report.num_entries
    lines = [f"{num_a:,} entries in {arguments.a}, {num_b:,} in {arguments.b}"]
    for kind in arguments.by:
        count = report.count(kind)
        lines.append(f"  same {kind:<6}{count:>8,} entries of {arguments.b}")
        found = [leak for leak in report.leaks if leak.kind == kind]
        lines += [
            f"      {leak.detail} (entry {leak.index_b}, as entry {leak.index_a})"
            for leak in found[:SHOWN_LEAKS]
        ]
    if report.num_unreadable:
        lines.append(f"  {report.num_unreadable:,} clips could not be read; see check")
    if arguments.json:
        content = {
            "num_entries": {"a": num_a, "b": num_b},
            "num_unreadable": report.num_unreadable,
            "leaks": [leak._asdict() for leak in report.leaks],
        }
        save_json(arguments.json, content, overwrite=arguments.overwrite)
        lines.append(f"wrote {arguments.json}")
    return Result(lines, status=1 if report.leaks else 0)
