"""Two processes end where one ends: weights to rounding, metrics, stops, NaN; and neither waits for ever when the other dies.

torchrun starts this file twice, each runs every scenario with the other, and the tests compare with the same run alone.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import mixed
import pytest
import torch
import torch.distributed
from test_distillation import config as distillation
from test_distillation import save_teachers
from test_training import SIDE, Brightness, fresh, settings

import tastemaker.training.policy as policy
import tastemaker.training.update as update
from tastemaker.errors import Stopped, UserMistake
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.rewards.reward import Missing
from tastemaker.runtime.distributed import ALONE, Ranks, connected
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.batch import prepare
from tastemaker.training.distill_start import run_distillation
from tastemaker.training.ranks import check_alike, check_share
from tastemaker.training.start import Around, Task, run_training
from tastemaker.types import Prompt

HERE = Path(__file__)
TEXTS = ["a red circle", "three squares", "make it green", "one triangle left", "blue background", "two red squares"]
PROMPTS = [Prompt(str(number), text) for number, text in enumerate(TEXTS)]
OPTIMISER = {"epsilon": 1e-3, "learning_rate": 1e-2, "ema_decay": 0.9}
"""A large epsilon: where a gradient is 0, Adam makes a step of the rounding of whatever order it was added up in."""

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


class OneMissing(Brightness):
    """The second picture of prompt 4 cannot be judged; `hook` is called each time."""

    hook = staticmethod(lambda: None)

    def score(self, images, prompts):
        self.hook()
        found = super().score(images, prompts)
        for row in [row for row, prompt in enumerate(prompts) if prompt.id == "4"][1:2]:
            found[row] = Missing("no answer")
        return found


def grpo(**changes):
    """Five prompts in a step: three here and two there. Passes of one group; in LoRA, whose start is drawn."""
    values = settings(
        rollout={"prompts": 5, "max_batch": 4, "chunks": 2},
        algorithm={"updates_per_rollout": 2, "velocity_kl": 0.1},
        optimiser={**OPTIMISER, "micro_batch": 4},
        budget={"max_steps": 3},
        **changes,
    ).model_dump()
    return type(settings())(**{**values, "policy": {"kind": "lora", "rank": 2, "alpha": 4}})


def train(folder, config, ranks, reward=None, **more):
    adapter = fresh()
    torch.manual_seed(ranks.rank)  # of which nothing may depend
    task = Task(PROMPTS, {"brightness": reward or OneMissing()}, SIDE, SIDE)
    return run_training(config, adapter, task, folder, ranks=ranks, **more)


def mixed_nft(folder, ranks):
    """Three layouts, of which one process has other numbers than the other; a lagging old policy; four mini-batches."""
    algorithm = {"updates_per_rollout": 4, "old_policy": {"decay": 0.5, "rise": 0.25}}
    config = mixed.config("nft", rollout={"prompts": 7}, algorithm=algorithm, optimiser=OPTIMISER, budget={"max_steps": 2})
    return mixed.go(config, mixed.prompts(folder.parent / "pictures"), folder, ranks=ranks)


def distil(folder, ranks):
    """Both tasks, each with a teacher."""
    prompts = mixed.prompts(folder.parent / "pictures")
    teachers = {name: folder.parent / "teachers" / name for name in ("drawing", "editing")}
    settings = distillation(rollout={"prompts": 5}, optimiser=OPTIMISER, budget={"max_steps": 2})
    return run_distillation(settings, fresh(), prompts, teachers, folder, around=Around(ranks=ranks))


def stopped(folder, ranks):
    """The second process is asked to stop in the second step."""
    stop, seen = StopRequest(), []

    class Asks(OneMissing):
        def hook(self):
            seen.append(1)
            if ranks.rank == ranks.count - 1 and len(seen) == 4:  # two chunks a step
                stop.request()

    with pytest.raises(Stopped, match="checkpoint of step 2"):
        train(folder, grpo(), ranks, Asks(), stop=stop)


def poisoned(folder, ranks):
    """Log-probabilities of the second process are NaN in the second step, and a picture of it in the third."""
    original, whole = policy.rollout, QwenImage21Adapter.decode
    steps = []

    def nan(setup, chunk, step):
        trajectory = original(setup, chunk, step)
        steps.append(step)
        if step == 2 and ranks.rank == ranks.count - 1:
            trajectory.log_probs_BS[0] = math.nan
        return trajectory

    def spoilt(adapter, *args):
        images = whole(adapter, *args)
        if steps[-1] == 3 and ranks.rank == ranks.count - 1:
            images[1] = math.nan
        return images

    policy.rollout, QwenImage21Adapter.decode = nan, spoilt
    try:
        return train(folder, grpo(), ranks)
    finally:
        policy.rollout, QwenImage21Adapter.decode = original, whole


def guided(folder, ranks):
    """How far guidance carries the policy is looked at in the first and the third step."""
    every = update.GUIDED_EVERY
    update.GUIDED_EVERY = 2
    try:
        return train(folder, grpo(), ranks)
    finally:
        update.GUIDED_EVERY = every


SCENARIOS = {
    "grpo": guided,
    "nft": mixed_nft,
    "distil": distil,
    "stopped": stopped,
    "poisoned": poisoned,
}


def both() -> None:
    """What torchrun starts."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with connected(torch.device("cpu")) as ranks:
        assert ranks.count == 2
        for name, scenario in SCENARIOS.items():
            state = scenario(folder / name, ranks)
            if state is not None:
                tensors = {
                    f"{group}/{key}": value for group, values in state.tensors().items() for key, value in values.items()
                }
                torch.save(tensors, folder / f"{name}-{ranks.rank}.pt")


ONE_IS_GONE = """
import sys, time, torch
import tastemaker.runtime.distributed as distributed
from tastemaker.errors import TastemakerError, UserMistake

distributed.PATIENCE = 5.0 if sys.argv[1] == "hangs" else 100.0
try:
    with distributed.connected(torch.device("cpu")) as ranks:
        ranks.gather(None)
        if ranks.first:
            ranks.gather(None)
        if sys.argv[1] == "hangs":
            time.sleep(100)
        raise UserMistake("it was I")
except TastemakerError as error:
    print(error)
    sys.exit(error.exit_code)
"""
"""The second process ends with an error of its own, or hangs, while the first wants to hear from it."""


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(str(path) for path in (HERE.parent, HERE.parents[1], HERE.parents[2] / "src"))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of what two processes did."""
    folder = tmp_path_factory.mktemp("together")
    save_teachers(folder / "teachers")
    mixed.prompts(folder / "pictures")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(HERE), str(folder)]
    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def saved(folder, name, rank):
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "nft", "distil"])
def test_two_processes_end_where_one_ends(together, name):
    alone = SCENARIOS[name](together / f"{name}-alone", ALONE)
    found, other = saved(together, name, 0), saved(together, name, 1)
    assert found.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in found.items())
    expected = {f"policy/{key}": value.detach() for key, value in alone.named()}
    expected |= {f"{group}/{key}": value for group in ("ema", "old") for key, value in getattr(alone, group).items()}
    assert any(not torch.allclose(alone.ema[key], value, atol=1e-3) for key, value in alone.named()), "nothing was learnt"
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-4), key
    same_lines(together / f"{name}-alone", together / name)


def same_lines(one: Path, other: Path) -> None:
    lines, twice = (read_lines(run / "metrics.jsonl") for run in (one, other))
    assert len(lines) == len(twice) > 1 and all(line["updates"] > 0 for line in lines)
    for line, second in zip(lines, twice, strict=True):
        assert line.keys() == second.keys()
        for key in line.keys() - {"time", "seconds", "hidden_latency"}:
            assert second[key] == pytest.approx(line[key], rel=2e-3, abs=2e-6), key


@pytest.mark.slow
def test_one_that_is_asked_to_stop_stops_both_and_one_process_goes_on(together):
    lines = read_lines(together / "stopped" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    state = train(together / "stopped", grpo(), ALONE)
    assert state.step == 3
    found = saved(together, "grpo", 0)
    for key, value in state.named():
        assert torch.allclose(found[f"policy/{key}"], value, rtol=1e-3, atol=1e-4), key
    (change,) = read_lines(together / "stopped" / "changes.jsonl")[-1]["changes"]
    assert change == {"key": "processes", "before": 2, "after": 1}


@pytest.mark.slow
def test_nan_in_one_is_skipped_by_both_and_names_the_sample(together):
    lines = read_lines(together / "poisoned" / "metrics.jsonl")
    assert [line["updates_skipped"] for line in lines] == [0, 1, 1]
    incidents = read_lines(together / "poisoned" / "incidents.jsonl")
    setup, _ = mixed.made(grpo(), PROMPTS)
    first, second = (prepare(setup, step).share(1, 2).prompts for step in (2, 3))
    assert [incident["culprits"] for incident in incidents] == [
        {"log-probabilities": [f"{prompt.id}/0" for prompt in first]},
        {"pictures": [f"{prompt.id}/1" for prompt in second]},
    ]
    found, other = saved(together, "poisoned", 0), saved(together, "poisoned", 1)
    assert all(torch.equal(value, other[key]) and value.isfinite().all() for key, value in found.items())


def test_shares_are_whole_even_and_disjoint(tmp_path):
    setup, _ = mixed.made(mixed.config("nft", rollout={"prompts": 8}), mixed.prompts(tmp_path))
    batch = prepare(setup, 1)
    assert sorted(len(part.prompts) for part in batch.parts) == [2, 3, 3]
    for count in range(1, 9):
        shares = [batch.share(rank, count) for rank in range(count)]
        sizes = [len(share.prompts) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(place for share in shares for place in share.places) == list(range(8))
        for share in shares:
            assert [batch.prompts[place] for place in share.places] == share.prompts
            for part in share.parts:
                (whole,) = [one for one in batch.parts if part.first in one.places]
                rows = torch.tensor(part.places) - whole.first
                for name, value in part.condition.tensors.items():
                    assert torch.equal(value, whole.condition.tensors[name][rows]), name


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_process_does_not_wait_for_one_that_is_gone(how):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", ONE_IS_GONE, how]
    first, second = (
        subprocess.Popen(command, env=environment(RANK=str(rank), **where), stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    )
    try:
        said, _ = first.communicate(timeout=60)
        assert first.returncode == 3 and len(said.splitlines()) == 1
        assert said.startswith("the processes of this run lost each other: one ended or hangs")
        if how == "fails":
            assert second.communicate(timeout=10)[0].strip() == "it was I" and second.returncode == 2
    finally:
        second.kill()


def test_an_environment_that_says_too_little_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserMistake, match="RANK and MASTER_ADDR and MASTER_PORT"), connected(torch.device("cpu")):
        pass


class Told(Ranks):
    """Two processes, of which the other says what it is told to."""

    def __init__(self, other):
        super().__init__(0, 2)
        object.__setattr__(self, "other", other)

    def gather(self, value):
        return [value, self.other(value)]


def test_processes_that_were_started_differently_are_refused():
    config = grpo()

    def other(mine):
        return {**mine, "settings": {**mine["settings"], "seed": 7}, "judges": {"brightness": "another"}}

    check_alike(Told(lambda mine: mine), config, PROMPTS, {"brightness": "one"}, {})
    with pytest.raises(UserMistake, match=r"process 1 .*\n  settings.seed: 0 -> 7\n  judges.brightness: one -> another"):
        check_alike(Told(other), config, PROMPTS, {"brightness": "one"}, {})


def test_more_processes_than_prompts_are_refused():
    check_share(2, 2)
    with pytest.raises(UserMistake, match=r"rollout\.prompts: 2 a step is too few for 3 processes"):
        check_share(2, 3)


if __name__ == "__main__":
    both()
