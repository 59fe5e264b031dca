"""`check`: decode every clip of an annotation and tell what is wrong; clean it on demand."""

import argparse
from pathlib import Path
from typing import Any

from audiolm.data.checking.problems import SEVERITIES
from audiolm.data.commands.shared import (
    Result,
    add_command,
    add_num_processes,
    add_overwrite,
    add_prefix,
    build_bar,
    describe_hours,
    save_json,
)
from audiolm.errors import UserError

SHOWN_PER_KIND = 3


def add_parser(verbs: Any) -> None:
    """The verb and its options."""
    kinds = ", ".join(SEVERITIES)
    parser = add_command(
        verbs,
        "check",
        run,
        "decode every clip and report problems",
        "Decode every clip and report problems. Interrupted, it goes on where it stopped when it "
        "is called again. Exit status: 0 no errors, 1 errors (with --strict: or warnings), 2 not "
        f"checkable. Kinds of problems: {kinds}.",
    )
    parser.add_argument("annotation", metavar="ANN", help="annotation to check")
    add_prefix(parser)
    add_num_processes(parser)
    parser.add_argument("--json", metavar="FILE", help="write every problem as JSON")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--fix", choices=["drop"], help="write a cleaned annotation")
    parser.add_argument("-o", "--output", metavar="OUT.json", help="the cleaned annotation")
    parser.add_argument(
        "--drop", nargs="+", metavar="KIND", help="what --fix leaves out; default: every error"
    )
    parser.add_argument(
        "--state", metavar="FILE", help="where the state is kept; default: beside the annotation"
    )
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Check, report, clean."""
    from audiolm.data.checking.checking import check_annotation
    from audiolm.data.entries import check_annotation_output
    from audiolm.data.outputs import check_output

    dropped_kinds = _choose_kinds(arguments)
    sources = [arguments.annotation]
    if arguments.output:
        check_annotation_output(arguments.output, overwrite=arguments.overwrite, sources=sources)
    if arguments.json:
        check_output(arguments.json, overwrite=arguments.overwrite, sources=sources)
    with build_bar("check") as bar:
        report = check_annotation(
            arguments.annotation,
            prefix=arguments.prefix,
            num_processes=arguments.num_processes,
            state_path=arguments.state,
            report_progress=lambda num_clips: bar.update(num_clips - bar.n),
        )
    lines = format_report(report)
    if arguments.json:
        save_json(arguments.json, build_json(arguments, report), overwrite=arguments.overwrite)
        lines.append(f"wrote {arguments.json}")
    if arguments.fix:
        lines += _clean(arguments, report, dropped_kinds)
    num_bad = len(report.problems) if arguments.strict else report.count_severity("error")
    return Result(lines, status=1 if num_bad else 0)


def format_report(report: Any) -> list[str]:
    """A table of the kinds of problems with the first of each, and what the audio is."""
    num_errors, num_warnings = (report.count_severity(name) for name in ("error", "warning"))
    resumed = f" ({report.num_resumed:,} of them earlier)" if report.num_resumed else ""
    lines = [
        f"checked {report.num_clips:,} clips{resumed}, {describe_hours(report.seconds)}: "
        f"{num_errors:,} with errors, {num_warnings:,} with warnings"
    ]
    counts = report.count_kinds()
    if counts:
        lines.append(f"  {'problem':<16}{'severity':<10}{'clips':>8}  meaning")
    for kind, count in counts.items():
        severity, meaning = SEVERITIES[kind]
        lines.append(f"  {kind:<16}{severity:<10}{count:>8,}  {meaning}")
        lines += [f"      {line}" for line in _list_first(report, kind)]
        if count > SHOWN_PER_KIND:
            lines.append(f"      ... and {count - SHOWN_PER_KIND:,} more")
    rates = ", ".join(f"{rate} Hz: {count:,}" for rate, count in report.rates_hz.most_common())
    channels = ", ".join(f"{number}: {count:,}" for number, count in report.channels.most_common())
    return [*lines, f"  rates: {rates or 'none'}; channels: {channels or 'none'}"]


def build_json(arguments: argparse.Namespace, report: Any) -> dict[str, Any]:
    """The whole report for programs."""
    problems = [
        {
            "index": index,
            "path": report.names[index],
            "problems": [
                {"kind": kind, "severity": SEVERITIES[kind][0], "detail": detail}
                for kind, detail in found
            ],
        }
        for index, found in report.problems.items()
    ]
    return {
        "annotation": str(arguments.annotation),
        "prefix": arguments.prefix,
        "num_clips": report.num_clips,
        "seconds": round(report.seconds, 3),
        "num_with_errors": report.count_severity("error"),
        "num_with_warnings": report.count_severity("warning"),
        "counts": report.count_kinds(),
        "rates_hz": report.rates_hz,
        "channels": report.channels,
        "problems": problems,
    }


def _list_first(report: Any, kind: str) -> list[str]:
    lines = []
    for index, found in report.problems.items():
        details = [problem.detail for problem in found if problem.kind == kind]
        if details:
            detail = f": {details[0]}" if details[0] else ""
            lines.append(f"annotation[{index}] ({report.names[index]}){detail}")
        if len(lines) == SHOWN_PER_KIND:
            break
    return lines


def _choose_kinds(arguments: argparse.Namespace) -> list[str]:
    if bool(arguments.fix) != bool(arguments.output):
        raise UserError("--fix drop and -o OUT.json go together: the input is never changed")
    if arguments.drop and not arguments.fix:
        raise UserError("--drop says what --fix leaves out; give --fix drop -o OUT.json too")
    unknown = [kind for kind in arguments.drop or () if kind not in SEVERITIES]
    if unknown:
        raise UserError(f"--drop: {unknown[0]!r} is none of {', '.join(SEVERITIES)}")
    errors = [kind for kind, (severity, _) in SEVERITIES.items() if severity == "error"]
    return arguments.drop or errors


def _clean(arguments: argparse.Namespace, report: Any, kinds: list[str]) -> list[str]:
    from audiolm.data.checking.checking import choose_dropped, name_dropped_list, save_cleaned

    dropped = choose_dropped(report, kinds)
    if len(dropped) == report.num_clips:
        index, (problem, *_) = next(iter(dropped.items()))
        raise UserError(
            f"--fix drop would leave no clip; the first, annotation[{index}] "
            f"({report.names[index]}), is {problem.kind}: {problem.detail or 'see check'}; "
            "is --prefix right?"
        )
    num_kept = save_cleaned(
        arguments.annotation, arguments.output, dropped, overwrite=arguments.overwrite
    )
    line = f"wrote {arguments.output}: {num_kept:,} clips kept, {len(dropped):,} dropped"
    return [f"{line}; listed in {name_dropped_list(Path(arguments.output))}" if dropped else line]
