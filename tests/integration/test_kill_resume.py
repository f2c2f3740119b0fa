"""Kills a small training run at every write, fsync and rename, and in every phase of a step; resuming must change nothing.

The file is also the program that is killed: it imports torch once and forks a process for each line on stdin, so that
hundreds of real SIGKILLs take seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.config.base import Settings
from tastemaker.errors import UserMistake
from tastemaker.runtime import changes, seeds
from tastemaker.runtime import folder as disk
from tastemaker.runtime.checkpoint import load_matching
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.run import Run
from tastemaker.runtime.signals import StopRequest
from tastemaker.runtime.state import flatten, unflatten

STEPS, EVERY, PROMPTS = 4, 2, 3


class ToySettings(Settings):
    seed: int = 3


# ---- the program that is killed ----------------------------------------------------------------------


class Momentum:
    """Gradient descent with momentum and the state layout of torch.optim, whose import takes seconds."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parameters = list(module.parameters())
        self.state = {row: {"momentum": torch.zeros_like(p), "count": 0} for row, p in enumerate(self.parameters)}

    @torch.no_grad()
    def step(self) -> None:
        for parameter, state in zip(self.parameters, self.state.values(), strict=True):
            assert parameter.grad is not None
            state["momentum"].mul_(0.9).add_(parameter.grad)
            state["count"] += 1
            parameter.sub_(state["momentum"], alpha=0.1 / state["count"])


def train(folder: Path, pause: float) -> None:
    """Least squares with momentum on keyed noise; each step trains one prompt and logs which."""
    model = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(model.weight)
    optimiser = Momentum(model)
    with Run.open(folder, ToySettings(), keep=1) as run, StopRequest() as stop:
        guard = NanGuard(run.incident)
        start = restore(run, model, optimiser, guard)
        (folder.parent / f"{folder.name}.started").write_text(str(start))
        for step in range(start + 1, STEPS + 1):
            loss = train_step(model, optimiser, guard, step, pause)
            run.log(step, {"loss": loss, "prompt": prompt_of(step)})
            disk.barrier("evaluation")
            if step % 2 == 0:
                run.log(step, {"weight": model.weight.detach().sum()}, stream="evaluation")
                run.write_image(f"step-{step}/picture.png", b"picture %d" % step)
            if step % EVERY == 0 or step == STEPS or stop.requested:
                save(run, step, model, optimiser, guard)
                stop.leave(f"checkpoint of step {step} saved")


def train_step(model: torch.nn.Linear, optimiser: Momentum, guard: NanGuard, step: int, pause: float) -> torch.Tensor:
    disk.barrier("rollout")
    time.sleep(pause)
    x = seeds.noise((8, 4), 3, "rollout", step, f"p{prompt_of(step)}")
    disk.barrier("scoring")
    loss = (model(x) - x[:, :2]).square().mean()
    model.zero_grad()
    loss.backward()
    disk.barrier("update")
    if guard.check(step, {"loss": loss.detach()}).ok:
        optimiser.step()
    return loss.detach()


def restore(run: Run, model: torch.nn.Module, optimiser: Momentum, guard: NanGuard) -> int:
    found = run.restore()
    if found is None:
        return 0
    load_matching(model, found.tensors["model"])
    optimiser.state = unflatten(found.tensors["optimiser"], found.state["optimiser"])
    guard.load_state(found.state["guard"])
    return found.step


def save(run: Run, step: int, model: torch.nn.Module, optimiser: Momentum, guard: NanGuard) -> None:
    tensors, plain = flatten(optimiser.state)
    groups = {"model": model.state_dict(), "optimiser": tensors}
    run.checkpoint(step, groups, {"optimiser": plain, "guard": guard.state()})


def prompt_of(step: int) -> int:
    """Every prompt once per epoch, shuffled by a key, so that the step alone says which prompt comes."""
    epoch, place = divmod(step - 1, PROMPTS)
    return int(seeds.random(3, "order", epoch).permutation(PROMPTS)[place])


def serve() -> None:
    """For each request forks a run, prints its process id, waits for it and prints its exit code."""
    torch.set_num_threads(1)
    changes.PACKAGES = ("torch",)  # asking for the version of each costs 15 ms
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(forked(**json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def forked(folder: str, kill_at: int, pause: float) -> int:
    passed: list[str] = []

    def barrier(name: str) -> None:
        passed.append(name)
        if len(passed) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    disk.barrier = barrier
    try:
        train(Path(folder), pause)
        Path(f"{folder}.barriers").write_text(json.dumps(passed))
    except BaseException as error:
        Path(f"{folder}.error").write_text(repr(error))
        return getattr(error, "exit_code", 1)
    return 0


# ---- the tests ---------------------------------------------------------------------------------------


class Server:
    """Asks the serving process for training runs, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, folder: Path, kill_at: int = 0, pause: float = 0.0) -> int:
        """Starts a run and returns its process id."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"folder": str(folder), "kill_at": kill_at, "pause": pause}) + "\n")
        self.process.stdin.flush()
        return self.wait()

    def wait(self) -> int:
        """The exit code of the run that was started; minus the signal where one killed it."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def send(self, process: int, number: int) -> bool:
        """False where the run had ended already. A number that is no process of ours would signal the tests themselves."""
        assert process > 1, f"{process} is no run; an answer of the one before was not waited for"
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            return True
        return False

    def train(self, folder: Path, kill_at: int = 0) -> int:
        self.start(folder, kill_at)
        return self.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.process.stdin
    server.process.stdin.close()
    server.process.wait(10)


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: fsync is free there, and SIGKILL does not care."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tastemaker-", dir=place))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reference(server: Server, memory: Path) -> Path:
    assert server.train(memory / "reference") == 0
    return memory / "reference"


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a resumed run must have in common with an uninterrupted one."""
    final = folder / "checkpoints" / f"step-{STEPS:08d}"
    files = ("model.safetensors", "optimiser.safetensors", "state.json")
    return {
        "files": {name: hashlib.sha256((final / name).read_bytes()).hexdigest() for name in files},
        "metrics": lines(folder / "metrics.jsonl"),
        "evaluation": lines(folder / "evaluation.jsonl"),
        "steps": sorted(path.name for path in (folder / "checkpoints").iterdir()),
        "latest": (folder / "checkpoints" / "latest").read_text(),
        "images": sorted(str(path.relative_to(folder)) for path in (folder / "images").rglob("*")),
    }


def lines(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "time"} for record in records]


def finished_saves(folder: Path) -> list[int]:
    steps = (folder / "checkpoints").glob("step-*") if (folder / "checkpoints").is_dir() else ()
    return sorted(int(path.name[5:]) for path in steps if path.name[5:].isdigit())


def test_uninterrupted_run_is_reproducible_and_whole(server: Server, memory: Path, reference: Path) -> None:
    assert server.train(memory / "again") == 0
    expected = outcome(reference)
    assert outcome(memory / "again") == expected
    assert [record["step"] for record in expected["metrics"]] == list(range(1, STEPS + 1))
    assert {record["prompt"] for record in expected["metrics"][:PROMPTS]} == set(range(PROMPTS))


def test_kill_at_every_barrier_then_resume_gives_the_same_bits(server: Server, memory: Path, reference: Path) -> None:
    barriers = json.loads((memory / "reference.barriers").read_text())
    expected = outcome(reference)
    for phase in ("rollout", "scoring", "update", "evaluation", "written manifest.json", "renamed latest"):
        assert phase in barriers
    for kill_at in range(1, len(barriers) + 1):
        folder = memory / f"killed-{kill_at}"
        where = f"killed at {barriers[kill_at - 1]!r}, number {kill_at}"
        assert server.train(folder, kill_at) == -signal.SIGKILL, where
        saved = finished_saves(folder)
        logged = lines(folder / "metrics.jsonl")[-1]["step"] if (folder / "metrics.jsonl").exists() else 0
        assert server.train(folder) == 0, where
        started = int((memory / f"{folder.name}.started").read_text())
        assert started == (saved[-1] if saved else 0), where
        assert logged - started <= EVERY, where
        assert outcome(folder) == expected, where
        shutil.rmtree(folder)


def test_killed_again_and_again(server: Server, memory: Path, reference: Path) -> None:
    """A second and third kill hit the resumption itself, and the saving again of a step number."""
    chance = random.Random(5)
    for trial in range(12):
        folder = memory / f"again-{trial}"
        for _ in range(4):
            server.train(folder, chance.randrange(1, 40))
        assert server.train(folder) == 0
        assert outcome(folder) == outcome(reference), f"trial {trial}"


def test_kill_at_a_random_moment(server: Server, memory: Path, reference: Path) -> None:
    began = time.monotonic()
    assert server.train(memory / "measured") == 0
    whole = time.monotonic() - began
    chance, killed = random.Random(7), 0
    for trial in range(12):
        folder = memory / f"moment-{trial}"
        process = server.start(folder)
        time.sleep(chance.uniform(0.02, 0.8) * whole)
        server.send(process, signal.SIGKILL)
        killed += server.wait() == -signal.SIGKILL
        assert server.train(folder) == 0
        assert outcome(folder) == outcome(reference), f"trial {trial}"
    assert killed >= 3, f"{killed} of 12 runs were still going when they were killed"


def past_first_step(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_sigterm_saves_and_exits_75_and_resumes_exactly(server: Server, memory: Path, reference: Path) -> None:
    folder = memory / "stopped"
    process = server.start(folder, pause=0.2)
    past_first_step(folder)
    server.send(process, signal.SIGTERM)
    assert server.wait() == 75
    assert "stopped on request, checkpoint of step" in Path(f"{folder}.error").read_text()
    saved = finished_saves(folder)
    assert saved and saved[-1] < STEPS, "saved at the next safe point, before the end"
    assert server.train(folder) == 0
    assert outcome(folder) == outcome(reference)


def test_second_signal_leaves_at_once_without_damage(server: Server, memory: Path, reference: Path) -> None:
    folder = memory / "twice"
    process = server.start(folder, pause=5)
    while not (folder / "config.yaml").exists():
        time.sleep(0.005)
    time.sleep(0.3)
    began = time.monotonic()
    server.send(process, signal.SIGINT)
    time.sleep(0.1)
    server.send(process, signal.SIGINT)
    assert server.wait() == 130
    assert time.monotonic() - began < 3, "the pause of a step was not waited for"
    assert server.train(folder) == 0
    assert outcome(folder) == outcome(reference)


def test_folder_in_use_is_refused_and_free_after_a_kill(server: Server, memory: Path, reference: Path) -> None:
    folder = memory / "locked"
    process = server.start(folder, pause=0.5)
    past_first_step(folder)
    with pytest.raises(UserMistake, match=f"in use by process {process} on .* since 20"):
        Run.open(folder, ToySettings())
    server.send(process, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    assert server.train(folder) == 0
    assert outcome(folder) == outcome(reference)


if __name__ == "__main__":
    serve()
