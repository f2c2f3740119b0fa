"""Bursts of gradients are told once, with a limit that would hold them, and only where nothing held them."""

from __future__ import annotations

import numpy as np
import pytest

from tastemaker.training.bursts import unheld_bursts


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
