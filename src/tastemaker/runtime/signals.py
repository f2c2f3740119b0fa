"""SIGTERM and Ctrl-C ask the loop to stop at its next safe point; a second one ends the process at once.

Leaving at once does no harm because every write of this package is whole or absent.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from tastemaker.errors import Stopped, TastemakerError


class StopRequest:
    """While entered, signals set `requested`; the loop looks at it where the run can be resumed.

    >>> with StopRequest() as stop:
    ...     for step in range(3):
    ...         if stop.requested: ...  # save, then stop.leave("checkpoint of step 3 saved")
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self._because: TastemakerError | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self, because: TastemakerError | None = None) -> None:
        """Asks for a stop as a signal does (a spent time budget, a button); `because` is then raised in place of Stopped."""
        self.requested = True
        self._because = because

    def leave(self, done: str) -> None:
        """Raises Stopped, or what was given to `request`, when a stop was asked for; call right after saving."""
        if self._because is not None:
            raise self._because
        if self.requested:
            raise Stopped(f"stopped on request, {done}; the same command resumes it")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os.write(2, b"second signal, leaving at once; the last checkpoint is intact\n")
            os._exit(130)
        self.requested = True
        os.write(2, b"stopping at the next safe point; once more leaves at once\n")
