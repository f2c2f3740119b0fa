"""The learning rate over a training: it rises over the first updates, and falls over the last steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tastemaker.config import OptimiserConfig
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.state import PolicyState, steps


class Kept:
    """Keeps the last checkpoint, as a run does."""

    saved = None

    def log(self, step, metrics, stream="metrics"): ...

    def incident(self, record): ...

    def checkpoint(self, step, tensors, state):
        copies = {group: {name: value.clone() for name, value in named.items()} for group, named in tensors.items()}
        self.saved = copies, dict(state)


def rates(state: PolicyState, total: int, run: Kept, updates: int = 1, until: int | None = None) -> list[float]:
    """Of the first group at every update of the steps that are left."""
    found = []
    for step in steps(state, run, total, 1, NanGuard(lambda record: None), StopRequest()):
        for _ in range(updates):
            next(state.named())[1].grad = torch.ones(2, 2)
            state.update()
            found.append(state.optimiser.param_groups[0]["lr"])
        if step == until:
            break
    return found


def fresh(**settings) -> PolicyState:
    return PolicyState.fresh(nn.Linear(2, 2, bias=False), OptimiserConfig(learning_rate=1e-3, **settings))


def test_without_decay_the_rate_stays():
    assert rates(fresh(), 5, Kept()) == [1e-3] * 5


def test_it_falls_linearly_as_torch_lets_it():
    state = fresh(decay_from=0.5)
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1e-3)
    falling = torch.optim.lr_scheduler.LinearLR(other, start_factor=1.0, end_factor=1e-12, total_iters=5)
    expected = [1e-3] * 5
    for _ in range(5):
        expected.append(other.param_groups[0]["lr"])
        other.step()
        falling.step()
    assert rates(state, 10, Kept()) == pytest.approx(expected, rel=1e-6)


def test_all_updates_of_a_step_have_one_rate_and_warm_up_and_decay_multiply():
    assert rates(fresh(decay_from=0.0, warmup_steps=4), 4, Kept(), updates=2) == pytest.approx(
        [0.25e-3, 0.5e-3, 0.75 * 0.75e-3, 0.75e-3, 0.5e-3, 0.5e-3, 0.25e-3, 0.25e-3]
    )


def test_a_resumed_training_has_the_rates_of_a_whole_one():
    whole, first, run = rates(fresh(decay_from=0.3), 10, Kept()), fresh(decay_from=0.3), Kept()
    begun = rates(first, 10, run, until=6)
    second = fresh(decay_from=0.3)
    second.restore(*run.saved)
    assert [*begun[: second.step], *rates(second, 10, Kept())] == whole
