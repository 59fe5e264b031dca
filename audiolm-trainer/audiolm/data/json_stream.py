"""Read the items of a JSON list or of a JSON-lines file one by one, however long the file is.

In: a path (plain or .gz) and, for JSON, the key under which the list is. Out: the parsed items, of
which one at a time is in memory. What is wrong is told with its line and column.
"""

import difflib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from audiolm.errors import UserError

READ_CHARACTERS = 1 << 20
MAX_ITEM_CHARACTERS = 1 << 26  # text without end is a missing bracket, not an item
LINES_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_WHITE = " \t\n\r"
_AFTER_VALUE = frozenset(_WHITE + ",:]}")


def is_lines_file(path: str | Path) -> bool:
    """Whether a file's name says JSON lines."""
    return str(path).lower().endswith(LINES_SUFFIXES)


def iterate_json_lines(path: str | Path, purpose: str) -> Iterator[Any]:
    """The value on each line of a UTF-8 JSON-lines file; empty lines do not count.

    Raises:
        UserError: no such file, not UTF-8, a line that is not JSON, or a .gz that is cut short.
    """
    with _open_text(path, purpose) as file:
        for number, line in enumerate(_iterate_text(file, path, purpose), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
                message, column = _describe(error, 0)
                raise UserError(
                    f"{purpose} {path} is not valid JSON lines: {message} at line {number}, "
                    f"column {column + 1}; correct that line"
                ) from error
            yield value


def iterate_json_list(path: str | Path, key: str, purpose: str) -> Iterator[Any]:
    """The items of the list under `key` of the object that a UTF-8 JSON file holds.

    Raises:
        UserError: no such file, not UTF-8, not JSON (with line and column), no such list in it,
            or a .gz that is cut short.
    """
    with _open_text(path, purpose) as file:
        yield from _ListReader(file, path, key, purpose).items()


def _open_text(path: str | Path, purpose: str) -> IO[str]:
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{purpose} {path} {kind} (current directory: {Path.cwd()})")
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")  # type: ignore[return-value]


def _describe(error: Exception, position: int) -> tuple[str, int]:
    """Message and position of what `json` raised; numbers of 4,301 digits have no position."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg, error.pos
    return str(error), position


def _iterate_text(
    file: IO[str], path: str | Path, purpose: str, num_characters: int = 0
) -> Iterator[str]:
    """Lines, or pieces of `num_characters`, with what can go wrong in reading them told."""
    try:
        if num_characters:
            while piece := file.read(num_characters):
                yield piece
        else:
            yield from file
    except UnicodeDecodeError as error:
        raise UserError(
            f"{purpose} {path} is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{purpose} {path} is cut short or is no gzip file: {error}") from error


class _ListReader:
    """Walks through the text, of which it holds a window; items are parsed by `json`."""

    def __init__(self, file: IO[str], path: str | Path, key: str, purpose: str) -> None:
        self._pieces = _iterate_text(file, path, purpose, READ_CHARACTERS)
        self._name = f"{purpose} {path}"
        self._key = key
        self._entry: int | None = None  # of the wanted list, while one is read
        self._text = ""
        self._position = 0  # in the window
        self._line, self._column = 1, 1  # of the window's start in the file
        self._is_at_end = False
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[Any]:
        """The items of the wanted list."""
        if self._peek() != "{":
            if self._peek() == "[":
                hint = f'{{"{self._key}": [ ...its entries... ]}}'
                raise UserError(f"{self._name} is a bare list; wrap it: {hint}")
            self._parse()
            raise UserError(f'{self._name} has no "{self._key}" list')
        keys: list[str] = []
        for _ in self._members("{", "}"):
            key = self._parse_key()
            keys.append(key)
            if key != self._key:
                self._parse()
            elif self._peek() != "[":
                raise UserError(f'{self._name}: "{self._key}" must be a list of entries')
            else:
                for entry, _ in enumerate(self._members("[", "]")):
                    self._entry = entry
                    yield self._parse()
                self._entry = None
        if self._peek():
            self._fail("Extra data", self._position)
        if self._key not in keys:
            near = difflib.get_close_matches(self._key, keys, n=1)
            hint = f'; is "{near[0]}" meant?' if near else ""
            raise UserError(f'{self._name} has no "{self._key}" list{hint}')

    def _members(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each member of a list or object, and after its end."""
        assert self._peek() == opening
        self._position += 1
        if self._peek() == closing:
            self._position += 1
            return
        while True:
            yield
            mark = self._peek()
            if mark not in (",", closing):
                self._fail("Expecting ',' delimiter", self._position)
            self._position += 1
            if mark == closing:
                return
            if self._peek() == closing:
                self._fail("Illegal trailing comma", self._position)

    def _parse_key(self) -> str:
        if self._peek() != '"':
            self._fail("Expecting property name enclosed in double quotes", self._position)
        key = self._parse()
        if self._peek() != ":":
            self._fail("Expecting ':' delimiter", self._position)
        self._position += 1
        return key

    def _parse(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
                # "1" may be the start of "1.5": what follows tells whether the value is whole.
                is_whole = self._text[end : end + 1] in _AFTER_VALUE
                if is_whole or not self._read_more():
                    self._position = end
                    return value
            except (ValueError, RecursionError) as error:
                # The window may end within the value: that is a mistake only at the file's end.
                is_endless = len(self._text) - self._position > MAX_ITEM_CHARACTERS
                if is_endless or not self._read_more():
                    self._fail(*_describe(error, self._position))

    def _peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            text, position = self._text, self._position
            while position < len(text) and text[position] in _WHITE:
                position += 1
            self._position = position
            if position < len(text):
                return text[position]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Drop the text that is done with, and add the next piece."""
        piece = "" if self._is_at_end else next(self._pieces, "")
        self._is_at_end = not piece
        if piece:
            self._line, self._column = self._find_place(self._position)
            self._text = self._text[self._position :] + piece
            self._position = 0
        return bool(piece)

    def _find_place(self, position: int) -> tuple[int, int]:
        num_lines = self._text.count("\n", 0, position)
        if not num_lines:
            return self._line, self._column + position
        return self._line + num_lines, position - self._text.rfind("\n", 0, position)

    def _fail(self, message: str, position: int) -> None:
        line, column = self._find_place(position)
        entry = "" if self._entry is None else f", in {self._key}[{self._entry}]"
        fix = "correct it there"
        if self._is_at_end and not self._text[position:].strip():
            fix = "the file ends there: it is empty or was cut short, write it anew"
        elif message == "Extra data" and not str(self._name).endswith(LINES_SUFFIXES):
            fix = "if it has one object a line, name it .jsonl"
        raise UserError(
            f"{self._name} is not valid JSON: {message} at line {line}, column {column}{entry}; "
            f"{fix}"
        )
