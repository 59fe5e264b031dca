"""What the data commands share: their result, common options, and the progress bar."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from audiolm.data.outputs import whole_file
from audiolm.errors import UserError


@dataclass
class Result:
    """What a command has to say: lines for stdout, and its exit status."""

    lines: list[str] = field(default_factory=list)
    status: int = 0


Run = Callable[[argparse.Namespace], Result]


def add_command(
    verbs: Any, name: str, run: Run, summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """A subcommand that calls `run`."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=details or summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    parser.set_defaults(run=run)
    return parser


def add_output(parser: argparse.ArgumentParser, what: str, metavar: str = "OUT.json") -> None:
    """`-o` and `--overwrite`."""
    parser.add_argument("-o", "--output", required=True, metavar=metavar, help=what)
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """`--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")


def add_prefix(parser: argparse.ArgumentParser) -> None:
    """`--prefix`, with the meaning of datasets.prefix."""
    parser.add_argument(
        "--prefix", default="", metavar="DIR", help="folder that the audio paths start from"
    )


def add_num_processes(parser: argparse.ArgumentParser) -> None:
    """`--num-processes`."""
    parser.add_argument(
        "--num-processes", type=read_count, default=2, metavar="N", help="processes at work"
    )


def read_count(text: str) -> int:
    """An option that is a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def read_pairs(words: list[str], option: str) -> dict[str, tuple[str, ...]]:
    """`["text=a", "text=b", "path=c"]` -> values by key, in their order.

    Raises:
        UserError: a word without `=`.
    """
    pairs: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise UserError(f"{option}: {word!r} is not KEY=VALUE")
        pairs[key] = (*pairs.get(key, ()), value)
    return pairs


def describe_hours(seconds: float) -> str:
    """`12.3 h`, or minutes or seconds for less."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def save_json(path: str | Path, content: Any, *, overwrite: bool) -> None:
    """Write a report, whole or not at all.

    Raises:
        UserError: it is there already, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        text = json.dumps(content, ensure_ascii=False, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def build_bar(label: str, total: int | None = None, unit: str = "clips") -> Any:
    """A progress bar on stderr; nothing where that is not a terminal."""
    return tqdm(desc=label, total=total, unit=f" {unit}", disable=None, leave=False)
