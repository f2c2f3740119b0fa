"""The running average of the weights: how old it is by and large, and what limits it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tastemaker.config import OptimiserConfig
from tastemaker.training.state import PolicyState


def after(updates, **settings):
    """The average of a weight that is i after update i."""
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(module.weight)
    state = PolicyState(module, torch.optim.SGD(module.parameters(), lr=1.0), **settings)
    for _ in range(updates):
        module.weight.grad = -torch.ones_like(module.weight)
        state.update()
    assert module.weight.item() == updates
    return state.ema["weight"].item()


@pytest.mark.parametrize("ramp", [2, 4, 5, 10])
def test_the_average_is_one_ramp_th_of_the_updates_old(ramp):
    # a_n = ((r - 1) n - 1) / r solves a_n = d a_(n-1) + (1 - d) n with d = (1 + n) / (r + n), but for a start that fades
    assert after(800, ema_decay=0.9999, ema_ramp=ramp) == pytest.approx(800 * (1 - 1 / ramp), rel=2e-3)


def test_ten_is_the_default():
    assert OptimiserConfig().ema_ramp == PolicyState.ema_ramp == 10
    assert after(50, ema_decay=0.9999) == after(50, ema_decay=0.9999, ema_ramp=10.0)


def test_the_decay_limits_it():
    assert after(800, ema_decay=0.5, ema_ramp=2) == pytest.approx(800 - 0.5 / (1 - 0.5))


def test_settings_reach_the_state():
    settings = OptimiserConfig(ema_decay=0.9, ema_ramp=4)
    state = PolicyState.fresh(torch.nn.Linear(2, 2), settings)
    assert (state.ema_decay, state.ema_ramp) == (0.9, 4)


def test_an_average_of_the_start_alone_is_refused():
    with pytest.raises(ValidationError, match="ema_ramp"):
        OptimiserConfig(ema_ramp=1)
