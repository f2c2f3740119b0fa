"""Processes that tests signal and kill, forked from one that has the heavy packages imported: a start costs no ten seconds.

Each is a process of its own, with its own standard output and exit code, as if a shell had started it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ("tastemaker.commands.run", "tastemaker.commands.train_reward", "tastemaker.models.qwen_image21")
CONTEXT.set_forkserver_preload(list(PRELOADED))


class Started:
    """Runs `target(*args)`; iterating gives the lines that it prints."""

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        reader, writer = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_run, args=(writer, target, args), daemon=True)
        self.process.start()
        writer.close()
        self.output = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.output)

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """The exit code; minus the signal where one killed it."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def command(*words: str) -> None:
    """`tastemaker WORDS`."""
    from tastemaker.cli import main

    sys.argv = ["tastemaker", *words]
    main()


def _run(writer: Connection, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.dup2(writer.fileno(), 1)
    os.dup2(1, 2)
    writer.close()
    sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    target(*args)
