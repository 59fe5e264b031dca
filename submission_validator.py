"""Check the form of a submission CSV.

    python submission_validator.py FILE [--annotation JSON] [--strict]

In: a CSV with the header `testset_id,text`, ids `test` + 4 digits, one text per id; with
`--annotation`, the annotation whose entries the rows must answer, in its order. Out: every problem
with its row (the header is row 1), and a verdict.

Errors make a file invalid. Warnings (special tokens, prompt leftovers, empty or over-long texts)
do not, unless `--strict` is given. Exit status: 0 valid, 1 invalid, 2 unusable (no such file, not
UTF-8, bad annotation). A text is the text it is: `null`, `nan`, `12`, even nothing at all.

Stands alone: the standard library is enough, so it starts at once.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = ["testset_id", "text"]
MAX_TEXT_CHARACTERS = 1000  # about 200 tokens, the longest text the evaluation generates by default

_ID = re.compile(r"test[0-9]{4}")
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>]*\|>|</?s>|<(?:unk|pad|bos|eos|eot|start_of_turn|end_of_turn|end_of_utterance)>|\[PAD\]"
)
_PROMPT_LEFTOVER = re.compile(r"\bUSER:|\bASSISTANT:|</?Speech>|<SpeechHere>")


class UnusableInput(ValueError):
    """A file that cannot be checked at all. The message is one line."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the file; row 1 is the header, row 0 stands for the whole file."""

    row: int
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        place = f"row {self.row}: " if self.row else ""
        return f"{'warning' if self.is_warning else 'error'}: {place}{self.message}"


def find_problems(
    path: str | Path, annotation_path: str | Path | None = None
) -> tuple[list[Problem], int]:
    """Problems of the submission at `path`, in the order of its rows, and its number of rows.

    Raises:
        UnusableInput: one of the two files cannot be read, is not UTF-8, or is no annotation.
    """
    expected_ids = None if annotation_path is None else load_annotation_ids(annotation_path)
    records, problems = _parse_csv(_read_utf8(path))
    if not records or records[0][1] != HEADER:
        return [_header_problem(records), *problems], max(len(records) - 1, 0)
    rows = records[1:]
    problems += _row_problems(rows)
    if expected_ids is not None:
        problems += _annotation_problems(rows, expected_ids)
    elif not rows and not problems:
        problems.append(Problem(0, "no rows under the header", is_warning=True))
    # problems of the file as a whole come last
    return sorted(problems, key=lambda problem: problem.row or sys.maxsize), len(rows)


def load_annotation_ids(path: str | Path) -> list[str]:
    """The `testset_id`s of an annotation file, in its order.

    Raises:
        UnusableInput: not readable, not JSON, not an annotation, or an entry without an id.
    """
    text = _read_utf8(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableInput(f"annotation {path} is not JSON: {error}") from error
    entries = content.get("annotation") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UnusableInput(f'annotation {path} is not of the form {{"annotation": [...]}}')
    ids: dict[str, int] = {}  # id -> index of its entry
    for index, entry in enumerate(entries):
        testset_id = entry.get("testset_id") if isinstance(entry, dict) else None
        if not isinstance(testset_id, str):
            raise UnusableInput(f"annotation {path}: entry {index} has no testset_id")
        if testset_id in ids:
            raise UnusableInput(
                f"annotation {path}: testset_id {_shown(testset_id)} is in entry "
                f"{ids[testset_id]} and in entry {index}"
            )
        ids[testset_id] = index
    return list(ids)


def _read_utf8(path: str | Path) -> str:
    """A whole text file; a byte order mark in front is allowed and dropped."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UnusableInput(f"cannot read {path}: {reason}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UnusableInput(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} in line {line}; "
            "save it as UTF-8"
        ) from error


def _parse_csv(content: str) -> tuple[list[tuple[int, list[str]]], list[Problem]]:
    """Records as (row, fields), and the rows that are no CSV. Blank lines are skipped."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    problems: list[Problem] = []
    row = 0
    while True:
        row += 1
        first_line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return records, problems
        except csv.Error as error:
            reason = str(error)
            if reason == "unexpected end of data":
                reason = f"a quote opened in line {first_line} is never closed"
            problems.append(Problem(row, f"not readable as CSV: {reason}"))
            continue
        if fields:
            records.append((row, fields))


def _header_problem(records: list[tuple[int, list[str]]]) -> Problem:
    expected = ",".join(HEADER)
    if not records:
        return Problem(1, f"the file is empty: the header must be {expected}")
    found = records[0][1]
    if found == ["", *HEADER]:
        hint = "; an index column was written (pandas: to_csv(..., index=False))"
    elif [name.strip() for name in found] == HEADER:
        hint = "; no spaces around the names"
    else:
        hint = ""
    row = records[0][0]
    return Problem(row, f"the header is {_shown(','.join(found))}, it must be {expected!r}{hint}")


def _row_problems(rows: list[tuple[int, list[str]]]) -> Iterator[Problem]:
    first_row_of: dict[str, int] = {}
    for row, fields in rows:
        if len(fields) != len(HEADER):
            yield Problem(
                row,
                f"{len(fields)} fields instead of {len(HEADER)}: {_shown(','.join(fields))} "
                "(a text with commas needs quotes)",
            )
            continue
        testset_id, text = fields
        if not _ID.fullmatch(testset_id):
            yield Problem(row, f"id {_shown(testset_id)} is not 'test' and four digits (test0000)")
        elif testset_id in first_row_of:
            first_row = first_row_of[testset_id]
            yield Problem(row, f"id {_shown(testset_id)} is already in row {first_row}")
        first_row_of.setdefault(testset_id, row)
        if "\0" in text:
            yield Problem(row, f"text of {_shown(testset_id)} holds a NUL character")
        for message in _text_warnings(text):
            yield Problem(row, f"text of {_shown(testset_id)} {message}", is_warning=True)


def _text_warnings(text: str) -> Iterator[str]:
    if not text.strip():
        yield "is empty"
    if len(text) > MAX_TEXT_CHARACTERS:
        yield f"has {len(text)} characters, more than {MAX_TEXT_CHARACTERS}"
    for pattern, kind in ((_SPECIAL_TOKEN, "special token"), (_PROMPT_LEFTOVER, "prompt leftover")):
        found = sorted(set(pattern.findall(text)))
        if found:
            yield f"holds {kind} {', '.join(found)}"


def _annotation_problems(
    rows: list[tuple[int, list[str]]], expected_ids: list[str]
) -> Iterator[Problem]:
    ids = [(row, fields[0]) for row, fields in rows]
    found, expected = {testset_id for _, testset_id in ids}, set(expected_ids)
    if len(ids) != len(expected_ids):
        yield Problem(0, f"{len(ids)} rows for {len(expected_ids)} annotation entries")
    for row, testset_id in ids:
        if testset_id not in expected:
            yield Problem(row, f"id {_shown(testset_id)} is not in the annotation")
    for testset_id in expected_ids:
        if testset_id not in found:
            yield Problem(0, f"id {_shown(testset_id)} of the annotation is missing")
    if found == expected and len(ids) == len(expected_ids):
        for (row, testset_id), expected_id in zip(ids, expected_ids, strict=True):
            if testset_id != expected_id:
                found_id, right_id = _shown(testset_id), _shown(expected_id)
                yield Problem(row, f"id {found_id} where the annotation has {right_id}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def main(arguments: Sequence[str]) -> int:
    """Check the file named on the command line, print what is wrong, return the exit status."""
    parser = argparse.ArgumentParser(description="Check the form of a submission CSV.")
    parser.add_argument("file", help="CSV with the header testset_id,text")
    parser.add_argument("--annotation", metavar="JSON", help="also check ids, count and order")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    options = parser.parse_args(arguments)
    try:
        problems, num_rows = find_problems(options.file, options.annotation)
    except UnusableInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    num_warnings = sum(problem.is_warning for problem in problems)
    num_errors = len(problems) - num_warnings
    is_valid = num_errors == 0 and not (options.strict and num_warnings)
    verdict = "passed" if is_valid else "failed"
    print(
        f"Validation {verdict}: {options.file}: {num_rows} rows, "
        f"{num_errors} errors, {num_warnings} warnings{' (strict)' if options.strict else ''}"
    )
    return 0 if is_valid else 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # for terminals that lack a text's letters
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
