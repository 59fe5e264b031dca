"""Read a JSON file that a user wrote; what is wrong with it is told in one line.

In: a path and what the file is for. Out: the parsed value.
"""

import json
from pathlib import Path
from typing import Any

from audiolm.errors import UserError


def load_json(path: str | Path, purpose: str) -> Any:
    """Parse a UTF-8 JSON file (a byte order mark is fine).

    Args:
        path: the file.
        purpose: what it is, for messages: "annotation", "prompt file".

    Raises:
        UserError: no such file, not UTF-8, or not JSON (with line and column).
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"{purpose} {path} {kind} (current directory: {Path.cwd()})")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{purpose} {path} is not valid JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{purpose} {path} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
