"""Several processes on this machine for one training, started by the first of them: what torchrun does, from within.

    run_train in this process, as number 0 ──starts──> the same function with the same arguments, as numbers 1, 2, ...

On a CPU that is the better half of threads: work on small tensors gains next to nothing from a second thread, and nearly twice
from a second process, which has half of the pictures. The helpers leave stopping to the first, and end when it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from tastemaker.errors import ServiceFailed, Stopped, TastemakerError
from tastemaker.runtime.device import physical_cores, pick_device
from tastemaker.runtime.distributed import num_processes

T = TypeVar("T")
MOST = 4
"""Processes that "auto" starts on a CPU: each takes about 1 GB beside the model."""
_LEAVING, _FAILING = 60.0, 5.0
"""Seconds that helpers get to end by themselves when the first process does, and when it fails."""


def how_many(wanted: int | Literal["auto"], most: int = MOST, device: torch.device | None = None) -> int:
    """Processes to start: "auto" is one on a GPU, and on a CPU one for each core, up to `MOST` and to `most`.

    `device` is where they will work, the best there is if not given.
    """
    if wanted != "auto":
        return wanted
    return max(1, min(most, MOST, physical_cores())) if (device or pick_device()).type == "cpu" else 1


def spread(count: int, work: Callable[..., T], *args: Any, **own: Any) -> T:
    """What `work(*args, **own)` returns here, while `count` - 1 helpers do `work(*args)`; it may set the number of threads."""
    threads = torch.get_num_threads()
    try:
        with helped(count, work, *args):
            return work(*args, **own)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def helped(count: int, work: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Makes this process number 0 of `count`; the others do `work(*args)`, which has to meet what is done inside.

    Does nothing where one is enough or several were started already (torchrun). `work` and `args` are pickled. Raises
    ServiceFailed with what a helper said when it failed; other errors pass through once the helpers are gone.
    """
    if count < 2 or num_processes() > 1:
        yield
        return
    with _started(count, work, args) as (processes, pipes):
        try:
            yield
        except Stopped:
            _wait_for(processes, _LEAVING)
            raise
        except BaseException as error:
            _wait_for(processes, _FAILING)
            if isinstance(error, ServiceFailed) and (said := _said(pipes)):
                raise ServiceFailed(said) from error
            raise
        _wait_for(processes, _LEAVING)


@contextmanager
def _started(
    count: int, work: Callable[..., Any], args: tuple[Any, ...]
) -> Iterator[tuple[list[SpawnProcess], list[Connection]]]:
    """The helpers, once each has imported what it needs; what they know each other by is in the environment meanwhile."""
    context = multiprocessing.get_context("spawn")
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    if Path("/sys/class/net/lo").exists():
        shared["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    processes, pipes = [], []
    before = {name: os.environ.get(name) for name in (*shared, "RANK", "LOCAL_RANK", "TQDM_DISABLE")}
    try:
        os.environ["TQDM_DISABLE"] = "1"  # of the bars that loading a model shows one is enough
        for number in range(1, count):
            ours, theirs = context.Pipe()
            variables = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
            process = context.Process(target=_help, args=(theirs, variables, work, args))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        for process, pipe in zip(processes, pipes, strict=True):
            try:
                pipe.recv()
            except EOFError as error:
                process.join(_FAILING)
                raise ServiceFailed(
                    f"a process that was to help ended before it began (exit code {process.exitcode}), look for its own "
                    "message above; set processes to 1 to do without"
                ) from error
        del os.environ["TQDM_DISABLE"]
        os.environ.update({**shared, "RANK": "0", "LOCAL_RANK": "0"})
        yield processes, pipes
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def _help(pipe: Connection, variables: dict[str, str], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """A helper's life. A terminal's Ctrl-C does not reach it: the first process says when all stop."""
    os.setsid()
    follow_the_parent()
    os.environ.update(variables)
    pipe.send("ready")
    try:
        work(*args)
    except Stopped:
        pass
    except TastemakerError as error:
        pipe.send(f"process {variables['RANK']}: {error}")


def follow_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal, but the parent decides when to stop. One that was killed cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent: BaseProcess | None = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _said(pipes: list[Connection]) -> str:
    """What helpers that failed left, without what they only lost because of another."""
    found = []
    for pipe in pipes:
        try:
            while pipe.poll(1.0):
                found.append(str(pipe.recv()))
        except EOFError:
            continue
    return "\n".join(one for one in found if "lost each other" not in one)


def _wait_for(processes: list[SpawnProcess], seconds: float) -> None:
    """Those that are still there then are ended by the caller."""
    ends = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, ends - time.monotonic()))


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
