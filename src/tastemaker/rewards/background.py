"""Functions in daemon threads: one that hangs does not hold up the end of the process.

(The threads of `concurrent.futures` are waited for.) Each has the GPU of the thread that made it: torch keeps the current one
by thread, and the judges of every process would otherwise work on the first.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def in_thread(name: str, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """The future of `function(*arguments)`, which begins at once in a thread of its own, and ends with it."""
    future: Future[Result] = Future()
    _start(name, partial(_settle, future, partial(function, *arguments)))
    return future


class BackgroundThread:
    """Runs functions one after the other in one lasting thread, since arithmetic libraries keep a pool for each."""

    def __init__(self, name: str):
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._closed = False
        _start(name, self._run)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The future of `function(*arguments)`. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the background thread is closed; make another one")
        future: Future[Any] = Future()
        self._work.put((future, lambda: function(*arguments)))
        return future

    def close(self) -> None:
        """Cancels what has not begun. What runs is not interrupted and not waited for."""
        self._closed = True
        with suppress(queue.Empty):
            while item := self._work.get_nowait():
                item[0].cancel()
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, call = item
            if self._closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            _settle(future, call)
            del item, future, call  # a batch of pictures, kept alive until the next one otherwise


def _start(name: str, call: Callable[[], None]) -> None:
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def run() -> None:
        if device is not None:
            torch.cuda.set_device(device)
        call()

    threading.Thread(target=run, name=name, daemon=True).start()


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # belongs to whoever waits for the result
        future.set_exception(error)
