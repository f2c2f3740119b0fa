"""Bursts of gradients are told once, with a limit that would hold them, where nothing held them; and a loss that rose."""

from __future__ import annotations

import numpy as np
import pytest

from tastemaker.training.unsteady import risen_loss, unheld_bursts


def lines(norms, clipped=0.0):
    return [{"step": step, "grad_norm": norm, "grad_clipped": clipped} for step, norm in enumerate(norms, start=1)]


def steady(n=200, seed=0):
    """Norms spread as those of 200 steps of the miniature without a burst: a ninth decile of 1.6 medians."""
    return 0.06 * np.exp(0.37 * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("seed", range(20))
def test_steady_gradients_are_no_news(seed):
    assert unheld_bursts(lines(steady(seed=seed)), 1.0) is None


def test_a_burst_is_told_with_its_step_and_a_limit():
    norms = steady()
    norms[189:194] = [0.34, 0.48, 0.54, 0.6, 0.32]
    said = unheld_bursts(lines(norms), 1.0)
    assert said is not None and "0.6 in step 193" in said and "max_grad_norm 1 held none" in said
    assert said.endswith("0.09 would") or said.endswith("0.1 would")


def test_what_a_limit_held_is_no_news():
    norms = steady()
    norms[100] = 5.0
    held = lines(norms)
    held[100]["grad_clipped"] = 0.25
    assert unheld_bursts(held, 1.0) is None and unheld_bursts(lines(norms), 10.0) is not None


@pytest.mark.parametrize(
    "some",
    [[], lines([0.1] * 10 + [9.0]), lines([0.0] * 40), [{"step": 1, "updates": 0.0}] * 40, [{"step": 1, "grad_norm": None}]],
)
def test_nothing_is_said_of_too_little(some):
    assert unheld_bursts(some, 1.0) is None


@pytest.mark.parametrize("median, limit", [(0.066, "0.1"), (0.04, "0.06"), (2.0, "3"), (30.0, "40")])
def test_the_limit_has_one_digit(median, limit):
    said = unheld_bursts(lines([median] * 30 + [9 * median]), 1000.0)
    assert said is not None and said.endswith(f" {limit} would")


def losses(*parts, each=20, seed=0):
    """Steps about the given levels; guided and unguided steps differ by a third, as the miniature's do."""
    noise = np.random.default_rng(seed)
    levels = [level for level in parts for _ in range(each)]
    values = [level * (1 + 0.15 * (-1) ** step + 0.1 * noise.standard_normal()) for step, level in enumerate(levels)]
    return [{"step": step, "loss": value} for step, value in enumerate(values, start=1)]


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_stays_or_falls_or_rises_a_little_is_no_news(seed):
    for parts in ((0.18,) * 9, (0.18, 0.17, 0.15, 0.12), (0.18, 0.19, 0.2, 0.21)):
        assert risen_loss(losses(*parts, seed=seed), 0.01) is None


def test_a_loss_that_rose_is_told_with_what_would_hold_it():
    said = risen_loss(losses(0.18, 0.19, 0.23, 0.31, 0.49), 0.0)
    assert said is not None and "from 0.18" in said and "to 0.49" in said and "velocity_kl 0 did not hold it: set it" in said
    assert "raise it" in str(risen_loss(losses(0.18, 0.19, 0.23, 0.31, 0.49), 0.01))


def test_nothing_is_said_of_a_loss_that_is_short_absent_or_not_positive():
    assert risen_loss([], 0.0) is None
    assert risen_loss(losses(0.1, 0.9, each=15), 0.0) is None
    assert risen_loss(losses(0.0, 0.0, 0.0), 0.0) is None
    assert risen_loss(losses(-0.1, 0.1, 0.9), 0.0) is None
    assert risen_loss([{"step": step, "loss": None} for step in range(100)], 0.0) is None
