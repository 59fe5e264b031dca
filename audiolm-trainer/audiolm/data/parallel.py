"""Do the same to many rows in several processes, with results in the rows' order.

In: a function of a list of rows and the rows. Out: its results, list by list. Only a few lists are
under way at a time, however many rows there are.
"""

import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Row = TypeVar("Row")
Done = TypeVar("Done")

ROWS_PER_CHUNK = 32
CHUNKS_AHEAD = 4  # per process


def map_in_processes(
    work: Callable[[list[Row]], Done], rows: Iterable[Row], num_processes: int
) -> Iterator[Done]:
    """`work(chunk)` for each chunk of rows, in order; in this process when `num_processes` is 1.

    Raises:
        RuntimeError: a process died, as some decoders do on hostile files.
        Whatever `work` or the rows raise.
    """
    rows = iter(rows)
    chunks = iter(lambda: list(itertools.islice(rows, ROWS_PER_CHUNK)), [])
    if num_processes == 1:
        yield from map(work, chunks)
        return
    running: deque[tuple[list[Row], Future[Done]]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=_leave_interrupts) as pool:
        try:
            for chunk in chunks:
                running.append((chunk, pool.submit(work, chunk)))
                if len(running) >= CHUNKS_AHEAD * num_processes:
                    yield _wait(*running.popleft())
            while running:
                yield _wait(*running.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # not waiting races with the interpreter's own end


def _leave_interrupts() -> None:
    """Ctrl-C is for the main process, which then ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait(chunk: list[Row], future: "Future[Done]") -> Done:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(f"a process died at or after {str(chunk[0])[:200]}") from error
