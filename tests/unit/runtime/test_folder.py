"""Writing: whole or absent, durable in the right order, and a full disk is named. Row 5 of what must hold."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tastemaker.errors import DiskFull
from tastemaker.runtime import checkpoint
from tastemaker.runtime import folder as disk
from tastemaker.runtime.metrics import append_line


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses to let any file grow beyond 20 kB, for real."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place: Path) -> None:
    with pytest.raises(OSError), (place / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    for text in ("first", "", "zweites · ∂x"):
        disk.write_text_atomic(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_file_is_on_the_disk_before_its_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut would need; SIGKILL cannot show it."""
    events = []
    real_fsync, real_replace, real_rename = os.fsync, os.replace, os.rename
    name = lambda path: Path(path).name.split(disk.TEMPORARY)[0].lstrip(".")  # noqa: E731

    def fsync(descriptor: int) -> None:
        events.append(("fsync", name(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append(("rename", name(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append(("rename", name(b))), real_rename(a, b)))
    root = tmp_path / "saved"
    root.mkdir()
    checkpoint.save(root, 1, {"model": {"w": torch.ones(3)}}, {})
    step = "step-00000001"
    files = [("fsync", name) for name in ("model.safetensors", "state.json", "manifest.json")]
    pointer = [("fsync", "latest"), ("rename", "latest"), ("fsync", "saved")]
    assert events == [*files, ("fsync", step), ("rename", step), ("fsync", "saved"), *pointer]


def test_failed_write_keeps_the_old_file_and_cleans_up(tmp_path: Path, small_files: None) -> None:
    disk.write_text_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(DiskFull, match=r"disk full: need 50 kB, have .* \(.*\); free some space"):
        disk.write_bytes_atomic(tmp_path / "a.txt", bytes(50_000))
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_failed_save_keeps_the_old_step_and_cleans_up(tmp_path: Path, small_files: None) -> None:
    checkpoint.save(tmp_path, 1, {"model": {"w": torch.ones(10)}}, {"n": 1})
    with pytest.raises(DiskFull, match="disk full: need 466 kB"):
        checkpoint.save(tmp_path, 2, {"model": {"w": torch.ones(100_000)}}, {"n": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert checkpoint.load(tmp_path).state == {"n": 1}


def test_full_disk_for_real(small_disk: Path) -> None:
    checkpoint.save(small_disk, 1, {"model": {"w": torch.ones(10_000)}}, {})
    append_line(small_disk / "m.jsonl", {"step": 1})
    with pytest.raises(DiskFull, match=r"need 4.07 MB, have 9"):
        checkpoint.save(small_disk, 2, {"model": {"w": torch.ones(1_000_000)}}, {})
    fill(small_disk)
    with pytest.raises(DiskFull, match="have 0 B"):
        disk.write_bytes_atomic(small_disk / "picture.png", bytes(10_000))
    with pytest.raises(DiskFull, match="have 0 B"):
        for number in range(10_000):
            append_line(small_disk / "m.jsonl", {"step": number, "text": "x" * 100})
    assert (small_disk / "m.jsonl").read_bytes().endswith(b"}\n")
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "latest", "m.jsonl", "step-00000001"]
    assert checkpoint.load(small_disk).step == 1


def test_disk_fills_up_in_the_middle_of_a_save(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check beforehand passes, another process takes the room."""
    checkpoint.save(small_disk, 1, {"model": {"w": torch.ones(10)}}, {})
    monkeypatch.setattr(disk, "require_space", lambda path, need: None)
    with pytest.raises(DiskFull, match="disk full"):
        checkpoint.save(small_disk, 2, {"model": {"w": torch.ones(400_000)}}, {})
    assert sorted(p.name for p in small_disk.iterdir()) == ["latest", "step-00000001"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_torn_append_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    append_line(tmp_path / "m.jsonl", {"step": 1})
    real = os.write
    calls = iter(range(10))

    def write(descriptor: int, data: bytes) -> int:
        if next(calls):
            raise OSError(number, os.strerror(number))
        return real(descriptor, data[:3])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(DiskFull):
        append_line(tmp_path / "m.jsonl", {"step": 2})
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 1}\n'


def test_line_after_a_torn_one_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"st')
    append_line(tmp_path / "m.jsonl", {"step": 2})
    assert (tmp_path / "m.jsonl").read_text().splitlines()[-1] == '{"step": 2}'


def test_space_is_checked_beforehand(tmp_path: Path) -> None:
    disk.require_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(DiskFull, match=r"disk full: need 1\d* ?.*TB, have .*B \("):
        disk.require_space(tmp_path, 10**18)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.write_text_atomic(tmp_path / "nowhere" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    with pytest.raises(IsADirectoryError):
        disk.write_text_atomic(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".a{disk.TEMPORARY}77").touch()
    (tmp_path / f"step-00000003{disk.TEMPORARY}77").mkdir()
    (tmp_path / f"step-00000003{disk.TEMPORARY}77" / "model.safetensors").touch()
    (tmp_path / "a.tmp").touch()
    assert len(disk.remove_leftovers(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.tmp"]
    assert disk.remove_leftovers(tmp_path / "nowhere") == []


@pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (12_345_678, "12.3 MB"), (2_500, "2.5 kB"), (3e15, "3000 TB")])
def test_readable_size(count: float, text: str) -> None:
    assert disk.readable_size(count) == text
