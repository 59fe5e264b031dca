"""When a run should stop before its end: SIGTERM, SIGINT, or its time is up.

A signal only raises a flag, which the loop reads between two steps. What comes within a few seconds
is the same request: a terminal sends Ctrl-C to torchrun and to its workers, and torchrun passes it
on to them. A later signal is not caught: it ends the process at once.
"""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SECONDS = 5.0


class StopRequest:
    """`reason` is empty until something asks this process to stop.

    Used as a context, in which the two signals are caught. `max_minutes` counts from construction;
    0 is no limit.
    """

    def __init__(self, max_minutes: float = 0.0) -> None:
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._signal = ""
        self._signal_time = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def reason(self) -> str:
        """SIGTERM, SIGINT, "time is up" or empty."""
        return self._signal or ("time is up" if time.monotonic() > self._deadline else "")

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # only there it is allowed
            self._previous = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._signal_time = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() > self._signal_time + SAME_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
