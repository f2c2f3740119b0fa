"""What was changed about AdamW for a resumption is what the resumed run computes with."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from tastemaker.config import OptimiserConfig
from tastemaker.training.state import PolicyState


def state(**changes) -> PolicyState:
    module = nn.Linear(3, 2, bias=False)
    nn.init.ones_(module.weight)
    return PolicyState.fresh(module, OptimiserConfig(learning_rate=1e-2, **changes))


def updated(state: PolicyState, gradient: float) -> torch.Tensor:
    (weight,) = state.parameters
    weight.grad = torch.full_like(weight, gradient)
    state.update()
    return weight.detach().clone()


@pytest.mark.parametrize("change", [{}, {"betas": (0.5, 0.9)}, {"epsilon": 1e-3}, {"weight_decay": 0.5}])
def test_a_resumed_run_has_the_optimiser_of_its_settings(change):
    first = state()
    updated(first, 1.0)
    resumed = state(**change)
    resumed.restore(deepcopy(first.tensors()), first.plain())
    for name, value in change.items():  # one that has had them all along, but for its first update
        first.optimiser.param_groups[0]["eps" if name == "epsilon" else name] = value
    assert torch.equal(updated(resumed, 3.0), updated(first, 3.0))
