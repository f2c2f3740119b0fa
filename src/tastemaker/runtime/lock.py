"""One process per run folder: a lock that ends with its holder, however that ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import warnings
from datetime import datetime
from pathlib import Path

from tastemaker.errors import UserMistake

_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class Lock:
    """Held from construction to `release`; the kernel releases it when the process dies. The file says who holds it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Lets others in; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(os.pread(self._descriptor, 4096, 0))
            raise UserMistake(f"{path.parent}: in use by {holder}; wait for it, stop it, or choose another folder") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            warnings.warn(f"{path}: this file system has no locks, see to it that only one run writes here", stacklevel=3)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)


def _holder(content: bytes) -> str:
    try:
        said = json.loads(content)
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
