"""Writing that survives a crash: a file is there whole or not at all, and a full disk is named as such.

The order is always: write under a temporary name, fsync the file, rename, fsync the folder. Every one of these is followed by
`barrier`, which does nothing; tests replace it to kill the process there.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tastemaker.errors import DiskFull

TEMPORARY = ".tmp-"
"""Every name that holds this is a leftover of an interrupted write and may be removed by the folder's owner."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def barrier(name: str) -> None:
    """A point after which a crash must do no harm."""


def write_text_atomic(path: Path | str, text: str) -> None:
    """Replaces the file by `text` (UTF-8), durably; a reader sees the old or the new content, never a mixture."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path | str, data: bytes) -> None:
    """As `write_text_atomic`, for bytes."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
    with room_for(temporary, len(data)):
        write_file(temporary, lambda name: name.write_bytes(data))
        os.replace(temporary, path)
        barrier(f"renamed {path.name}")
        sync_folder(path.parent)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make the file and puts it on the disk; for files inside a folder that is itself renamed later."""
    write(path)
    barrier(f"written {path.name}")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    barrier(f"synced {path.name}")


def rename_folder(source: Path, target: Path) -> None:
    """Moves a folder, durably. Fails when `target` exists and is not empty: a saved folder is never overwritten."""
    os.rename(source, target)
    barrier(f"renamed {target.name}")
    sync_folder(target.parent)


@contextmanager
def whole_folder(target: Path, need: int, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside `target` to write `need` bytes into, which becomes `target` at the end of the block.

    Whatever goes wrong, `target` is what it was. Only with `replace` may it hold files. What interrupted writes of it left is
    removed; the caller is its only writer. Raises DiskFull before anything is written.
    """
    make_folder(target.parent)
    prefix = f".{target.name}{TEMPORARY}"
    for leftover in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        remove(leftover)
    require_space(target.parent, need)
    temporary, former = target.with_name(f"{prefix}{os.getpid()}"), target.with_name(f"{prefix}former-{os.getpid()}")
    with room_for(temporary, need):
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        if replace and target.exists():
            rename_folder(target, former)
        rename_folder(temporary, target)
    remove(former)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            write_file(path, lambda name: None)
    sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Puts the names in a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    barrier(f"synced folder {path.name}")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, durably."""
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file or a folder, whatever it is; not being there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[str]:
    """Removes what interrupted writes left directly in `folder`; only its single writer may call this. Returns the names."""
    leftovers = sorted(path for path in folder.iterdir() if TEMPORARY in path.name) if folder.is_dir() else []
    for path in leftovers:
        remove(path)
    return [path.name for path in leftovers]


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write where `path` is or will be."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def require_space(path: Path | str, need: int) -> None:
    """Raises DiskFull unless `need` bytes fit where `path` is or will be."""
    have = free_bytes(Path(path).absolute())
    if have < need:
        raise disk_full(Path(path), need)


@contextmanager
def room_for(path: Path, need: int) -> Iterator[None]:
    """Around a write to `path`: whatever goes wrong, `path` is removed; no room becomes DiskFull."""
    try:
        yield
    except BaseException as error:
        remove(path)
        if is_no_room(error):
            raise disk_full(path, need) from error
        raise


def is_no_room(error: BaseException) -> bool:
    """Whether an error, also one of safetensors (which has no errno), says that nothing more can be written."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return type(error).__name__ == "SafetensorError" and any(f"os error {number})" in str(error) for number in _NO_ROOM)


def readable_size(count: float) -> str:
    """12345678 -> "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def disk_full(path: Path, need: int) -> DiskFull:
    """The error to raise when `need` bytes did not fit at `path`."""
    have = free_bytes(path.absolute())
    where = path.parent if TEMPORARY in path.name else path
    limit = ", which is enough: a quota or a limit on file size may be in force" if have >= need else ""
    return DiskFull(
        f"disk full: need {readable_size(need)}, have {readable_size(have)}{limit} ({where}); "
        "free some space and run the same command again, earlier checkpoints are intact"
    )
