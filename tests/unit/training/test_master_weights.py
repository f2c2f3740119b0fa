"""Weights that a model has in bfloat16 are trained in float32: what is far below its spacing still adds up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tastemaker.config import OptimiserConfig
from tastemaker.runtime.checkpoint import size
from tastemaker.training.state import PolicyState

SETTINGS = OptimiserConfig(learning_rate=1e-4, ema_decay=0.9, epsilon=1e-8)


def model(dtype: torch.dtype) -> nn.Module:
    """Weights of 1, where bfloat16 has steps of 1/128 and below 1 of 1/256."""
    module = nn.Linear(3, 2, bias=False).to(dtype)
    nn.init.ones_(module.weight)
    return module


def updated(state: PolicyState, count: int) -> None:
    for number in range(count):
        for _, value in state.named():
            value.grad = torch.full_like(value, 1.0 + number % 2)
        state.update()


def test_small_updates_add_up():
    state = PolicyState.fresh(module := model(torch.bfloat16), SETTINGS)
    updated(state, 2)
    assert (module.weight == 1).all(), "two updates are below the spacing"
    updated(state, 98)
    reference = PolicyState.fresh(model(torch.float32), SETTINGS)
    updated(reference, 100)
    expected = next(reference.kept())[1]
    assert expected.max() < 0.993
    torch.testing.assert_close(state.master["weight"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(state.ema["weight"], reference.ema["weight"], rtol=1e-6, atol=0)
    assert torch.equal(module.weight, expected.bfloat16()) and module.weight.dtype == torch.bfloat16
    with state.averaged():
        assert torch.equal(module.weight, state.ema["weight"].bfloat16())
    assert torch.equal(module.weight, expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_gradients_of_many_passes_add_up(dtype):
    """Each is 1/512 of the first, which is nothing to a sum in bfloat16."""
    state = PolicyState.fresh(module := model(dtype), SETTINGS)
    for share in [1.0, *[1 / 512] * 512]:
        (share * module(torch.ones(1, 3, dtype=dtype)).sum()).backward()
        state.take_gradients()
    (weight,) = state.parameters
    torch.testing.assert_close(weight.grad, torch.full((2, 3), 2.0), rtol=1e-5, atol=0)
    assert (dtype == torch.float32) == (module.weight.grad is not None)


def test_a_model_in_float32_has_no_second_copy():
    state = PolicyState.fresh(module := model(torch.float32), SETTINGS)
    assert not state.master and next(state.kept())[1] is module.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_room_for_a_save_is_known_before_the_first_update(dtype):
    """AdamW makes its two means in its first update; they are two thirds of what is saved."""
    module = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 10)).to(dtype)
    state = PolicyState.fresh(module, OptimiserConfig())
    foreseen = size(state.tensors_to_come())
    assert foreseen > 4 * 3 * sum(value.numel() for value in module.parameters())
    updated(state, 1)
    assert foreseen == size(state.tensors()) == size(state.tensors_to_come())


def test_what_is_saved_goes_on_to_the_last_bit():
    whole = PolicyState.fresh(model(torch.bfloat16), SETTINGS)
    updated(whole, 30)
    kept = {group: {name: value.clone() for name, value in values.items()} for group, values in whole.tensors().items()}
    assert kept["policy"]["weight"].dtype == torch.float32
    parts = PolicyState.fresh(model(torch.bfloat16), SETTINGS)
    parts.restore(kept, whole.plain())
    assert torch.equal(next(parts.named())[1], next(whole.named())[1])
    for state in (whole, parts):
        updated(state, 30)
    assert torch.equal(parts.master["weight"], whole.master["weight"]) and torch.equal(parts.ema["weight"], whole.ema["weight"])


def test_a_skipped_update_leaves_no_gradient():
    state = PolicyState.fresh(module := model(torch.bfloat16), SETTINGS)
    module.weight.grad = torch.full_like(module.weight, float("nan"))
    state.drop_gradients()
    assert module.weight.grad is None and state.master["weight"].grad is None
    state.update()  # nothing to do, and nothing breaks
    assert (module.weight == 1).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_only_what_wants_a_gradient_is_optimised(frozen):
    module = nn.Sequential(model(torch.bfloat16), model(torch.bfloat16))
    module[0].requires_grad_(not frozen)
    state = PolicyState.fresh(module, SETTINGS)
    assert state.master.keys() == ({"1.weight"} if frozen else {"0.weight", "1.weight"})
    updated(state, 50)
    assert bool((module[0].weight == 1).all()) == frozen and (module[1].weight < 1).all()
