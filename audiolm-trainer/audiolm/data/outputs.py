"""Files and folders that appear whole or not at all.

In: where the result shall be. Out: a place beside it to write to, moved there when all went well
and deleted when not. Nothing is written over the input.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from audiolm.errors import UserError


def check_output(
    path: str | Path, *, overwrite: bool = False, sources: Sequence[str | Path] = ()
) -> None:
    """Find out before the work whether its result may be written.

    Raises:
        UserError: the output is one of the sources, exists (and may not be replaced), or its
            folder cannot be.
    """
    path = Path(path)
    for source in sources:
        if Path(source).exists() and path.exists() and os.path.samefile(path, source):
            raise UserError(f"{path} is the input itself; name another output with -o")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; name another output, or give --overwrite to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {path}: {folder} is not a folder that can be written to")


@contextlib.contextmanager
def whole_file(
    path: str | Path, *, overwrite: bool = False, sources: Sequence[str | Path] = ()
) -> Iterator[Path]:
    """Give a path to write to; after the block, what was written there is the file `path`.

    Raises:
        UserError: as `check_output`; or it cannot be written, as when the disk is full.
    """
    with _beside(path, overwrite, sources) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if Path(path).is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        os.replace(temporary, path)


@contextlib.contextmanager
def whole_folder(
    path: str | Path, *, overwrite: bool = False, sources: Sequence[str | Path] = ()
) -> Iterator[Path]:
    """The same for a folder: it is empty at first, and takes the place of `path` after the block.

    Raises:
        UserError: as `check_output`; or it cannot be written, as when the disk is full.
    """
    with _beside(path, overwrite, sources) as temporary:
        temporary.mkdir()
        yield temporary
        if Path(path).exists():
            old = temporary.with_name(f"{temporary.name}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)


@contextlib.contextmanager
def _beside(path: str | Path, overwrite: bool, sources: Sequence[str | Path]) -> Iterator[Path]:
    path = Path(path)
    check_output(path, overwrite=overwrite, sources=sources)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(temporary)):
            raise  # about another file, which the message names
        raise UserError(f"cannot write {path}: {error.strerror}; nothing is left of it") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
