"""Writes a file whole or not at all: a reader never sees half a report."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from tastemaker.errors import DiskFull


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Replace `path` by `content`, creating its folder; an earlier file stays intact if this fails.

    Raises DiskFull where there is no room.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp makes it private; a report is to be read
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: no room for {len(content)} bytes; free some space and run the command again") from error
        raise
    return path
