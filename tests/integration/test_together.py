"""Helpers started from within: they end where one ends, say why they failed, and are never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file
from test_train_edits import written

from tastemaker.commands.train import train
from tastemaker.errors import ServiceFailed, Stopped, UserMistake
from tastemaker.runtime import together
from tastemaker.runtime.distributed import connected, num_processes
from tastemaker.runtime.metrics import read_lines

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


def meets(folder: Path, fails: str = "") -> list[int]:
    """All tell each other who they are; the last one may end otherwise."""
    with connected(CPU) as ranks:
        found = ranks.gather([ranks.rank, os.getpid()])
        if ranks.rank == ranks.count - 1 and fails:
            if fails == "stopped":
                raise Stopped("as asked")
            if fails == "killed":
                os._exit(9)
            raise UserMistake("it was I")
        if fails and fails != "stopped":
            ranks.gather(None)
    if ranks.first:
        (folder / "pids").write_text(" ".join(str(pid) for _, pid in found))
    return [rank for rank, _ in found]


def as_one_of(count: int, folder: Path, fails: str = "") -> list[int]:
    with together.helped(count, meets, folder, fails):
        return meets(folder, fails)


def gone(pid: int) -> bool:
    """Within five seconds."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_all_meet_and_nothing_is_left(tmp_path):
    before = dict(os.environ)
    assert as_one_of(2, tmp_path) == [0, 1]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(set(pids)) == 2 and all(gone(pid) for pid in pids if pid != os.getpid())
    assert dict(os.environ) == before and num_processes() == 1


def test_one_needs_no_helpers(tmp_path, monkeypatch):
    assert as_one_of(1, tmp_path) == [0]
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    with together.helped(4, meets, tmp_path):
        assert num_processes() == 2


@pytest.mark.slow
def test_what_a_helper_says_is_told(tmp_path):
    with pytest.raises(ServiceFailed, match=r"^process 1: it was I$"):
        as_one_of(2, tmp_path, "mistake")
    assert num_processes() == 1


@pytest.mark.slow
def test_a_helper_that_dies_is_noticed(tmp_path):
    began = time.monotonic()
    with pytest.raises(ServiceFailed, match="lost each other"):
        as_one_of(2, tmp_path, "killed")
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_helper_that_cannot_begin_is_told(tmp_path, monkeypatch):
    def not_importable() -> None: ...

    not_importable.__qualname__ = "absent"
    monkeypatch.setattr(sys.modules[__name__], "absent", not_importable, raising=False)
    with (
        pytest.raises(ServiceFailed, match="ended before it began"),
        together.helped(2, not_importable),
    ):
        pytest.fail("began all the same")


def test_auto_is_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(together, "pick_device", lambda: CPU)
    for cores, most, expected in ((1, 24, 1), (2, 24, 2), (64, 24, together.MOST), (64, 3, 3), (2, 0, 1)):
        monkeypatch.setattr(together, "physical_cores", lambda cores=cores: cores)
        assert together.how_many("auto", most) == expected
    monkeypatch.setattr(together, "pick_device", lambda: torch.device("cuda"))
    assert together.how_many("auto", 24) == 1
    assert together.how_many("auto", device=CPU) == 2  # the device that is given counts, and as many as there are cores
    assert together.how_many(7, 2) == 7  # said is said: the training itself refuses it


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    config = written(tmp_path)
    same = ["optimiser.epsilon=1e-3"]
    alone = train(config, folder=tmp_path / "alone", overrides=same)
    two = train(config, folder=tmp_path / "two", overrides=[*same, "processes=2"])
    name = "diffusion_pytorch_model.safetensors"
    expected, found = load_file(alone / name), load_file(two / name)
    assert all(torch.allclose(found[key].float(), value.float(), rtol=1e-3, atol=1e-4) for key, value in expected.items())
    lines = [read_lines(tmp_path / where / "metrics.jsonl") for where in ("alone", "two")]
    assert [line["reward/facts"] for line in lines[1]] == pytest.approx([line["reward/facts"] for line in lines[0]], abs=1e-4)
    again = train(config, folder=tmp_path / "two", overrides=[*same, "processes=1", "budget.max_steps=3"])
    assert again == two and len(read_lines(tmp_path / "two" / "metrics.jsonl")) == 3


def test_more_processes_than_prompts_are_refused(tmp_path):
    with pytest.raises(UserMistake, match="too few for 9 processes"):
        train(written(tmp_path), folder=tmp_path / "run", overrides=["processes=9"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_helpers_end_with_the_first(tmp_path, number):
    """Asked to stop, the run is saved and says so; killed, its helpers notice."""
    words = [sys.executable, "-m", "tastemaker", "train", str(written(tmp_path)), "--folder", str(tmp_path / "run")]
    more = ["-o", "processes=2", "-o", "budget.max_steps=500"]
    with subprocess.Popen([*words, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        helpers = []
        for line in started.stdout:
            if line.startswith("step 2/"):
                helpers = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
                started.send_signal(number)
        code = started.wait()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    assert helpers and all(gone(int(pid)) for pid in helpers)
