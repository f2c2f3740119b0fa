"""A training killed in any phase and started again ends at the weights of the uninterrupted one, bit for bit.

The phases are cut short in this process by an exception nobody catches, which leaves on disk what SIGKILL would leave there;
one test kills a real process (the runtime's own tests do so at every single write).
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import LORA, Brightness, assert_same, fresh, go, settings, weights

import tastemaker.training.policy as policy
import tastemaker.training.update as update
from processes import Started
from tastemaker.errors import TastemakerError
from tastemaker.runtime.metrics import read_lines


class Killed(BaseException):
    """Not an Exception: no handler of the product may swallow it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return weights(go(settings(), tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("phase", ["prepare", "rollout", "draw_and_judge", "within_budget", "accumulate"])
def test_killed_in_a_phase(tmp_path, monkeypatch, uninterrupted, phase):
    module = update if phase == "accumulate" else policy
    original, calls = getattr(module, phase), []

    def dies_in_the_third_step(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, phase, dies_in_the_third_step)
    with pytest.raises(Killed):
        go(settings(), tmp_path)
    trained = []
    resumed = go(settings(), tmp_path, after_step=lambda step, images, batch: trained.append(step))
    assert trained == [3, 4]
    assert_same(uninterrupted, weights(resumed))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_lora_killed_before_its_first_checkpoint_starts_as_the_same(tmp_path, monkeypatch):
    """Whatever was drawn from torch's own generator before, as other stages of a recipe do."""

    def begun(folder, drawn):
        adapter = fresh()
        torch.manual_seed(drawn)
        return go(settings(policy=LORA), folder, adapter)

    def dies(*args):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(policy, "update", dies)
        begun(tmp_path / "killed", 1)
    assert_same(weights(begun(tmp_path / "whole", 2)), weights(begun(tmp_path / "killed", 3)))


@pytest.mark.parametrize("chunks", [1, 2])
def test_killed_while_a_judge_works(tmp_path, chunks):
    """It works in the background; what kills it there ends the run as anywhere else."""

    class Dies(Brightness):
        calls = 0

        def score(self, images, prompts):
            self.calls += 1
            if self.calls == 3 * chunks:
                raise Killed
            return super().score(images, prompts)

    config = settings(rollout={"chunks": chunks})
    with pytest.raises(Killed):
        go(config, tmp_path / "killed", reward=Dies())
    resumed = go(config, tmp_path / "killed")
    assert_same(weights(go(config, tmp_path / "whole")), weights(resumed))


def test_killed_between_log_and_checkpoint(tmp_path, uninterrupted):
    def dies(step, images, batch):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        go(settings(), tmp_path, after_step=dies)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    resumed = go(settings(), tmp_path)
    assert_same(uninterrupted, weights(resumed))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_process_killed_and_terminated_ends_at_the_same_weights(tmp_path, uninterrupted):
    """SIGKILL once three steps are logged, then SIGTERM (exit code 75), then to the end."""
    run = tmp_path / "run"
    first = Started(train_slowly, run)
    assert any(line == "step 3\n" for line in first)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = Started(train_slowly, run)
    assert any(line == "step 3\n" for line in second)
    second.send_signal(signal.SIGTERM)
    assert second.wait() == 75
    assert Started(train_slowly, run).wait() == 0
    assert_same(uninterrupted, weights(go(settings(), run)))


class SlowBrightness(Brightness):
    """Leaves the test time to send its signal."""

    def score(self, images, prompts):
        time.sleep(0.5)
        return super().score(images, prompts)


def train_slowly(run: Path) -> None:
    """The program that is killed."""
    try:
        go(settings(), run, fresh(), SlowBrightness(), after_step=lambda step, images, batch: print(f"step {step}"))
    except TastemakerError as error:
        sys.exit(error.exit_code)
