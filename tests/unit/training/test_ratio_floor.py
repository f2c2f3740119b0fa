"""A clip range under the rounding of the log ratio is refused: at once when a run begins, and later when it stays so."""

import pytest
import torch
from torch import nn

from tastemaker.algorithms.grpo import GRPO
from tastemaker.config import OptimiserConfig
from tastemaker.errors import UserMistake
from tastemaker.training.state import PolicyState
from tastemaker.training.update import check_floor

ALGORITHM = GRPO(
    velocity_kl=0.0,
    advantage_clip=5.0,
    min_range=0.0,
    weights=(1.0,),
    floors=(0.01,),
    ranges=((0.0, 1.0),),
    clip_range=1e-4,
    ratio_norm=False,
)
ABOVE, BELOW = 1.5e-4, 2e-5


def after(updates: int) -> PolicyState:
    state = PolicyState.fresh(nn.Linear(1, 1), OptimiserConfig())
    state.updates = updates
    return state


def passes(state: PolicyState, *floors: float) -> None:
    for floor in floors:
        metrics = {"mean_abs_log_ratio": torch.tensor(floor)}
        check_floor(ALGORITHM, state, metrics)
        torch.testing.assert_close(metrics["floor"], torch.tensor(floor), equal_nan=True)  # it is logged


def test_a_run_does_not_begin_with_a_clip_range_under_the_floor():
    with pytest.raises(UserMistake, match=r"clip_range 0\.0001 is not above the rounding .* 1\.5e-04 nats"):
        passes(after(0), ABOVE)
    passes(after(0), BELOW)


def test_later_it_ends_by_three_in_a_row_and_not_by_one_bad_estimate():
    passes(after(9), ABOVE, ABOVE, BELOW, ABOVE, ABOVE)
    with pytest.raises(UserMistake, match="is not above the rounding"):
        passes(after(9), ABOVE, ABOVE, ABOVE)


def test_the_count_survives_a_resumption():
    state, resumed = after(9), after(0)
    passes(state, ABOVE, ABOVE)
    resumed.restore(state.tensors(), state.plain())
    with pytest.raises(UserMistake, match="is not above the rounding"):
        passes(resumed, ABOVE)


def test_a_ratio_that_is_no_number_is_left_to_the_guard():
    passes(after(0), float("nan"))
