"""How often the monitor cries wolf: a policy that draws as the base does, from other noise, is simulated many times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tastemaker.evaluation.band import Band

PROMPTS, SEEDS, STATISTICS = 24, 4, 12
RULE = {"threshold": 3, "deciding": 1, "looked_at": STATISTICS}


def normal(rng, shape):
    return rng.normal(size=shape)


def skewed(rng, shape):
    """Two pictures of a prompt, as in a set, of a statistic with a long tail."""
    return rng.exponential(size=(2, *shape)).mean(0)


@pytest.mark.parametrize("alike", [0.0, 0.9])
@pytest.mark.parametrize("noise, most", [(normal, 0.01), (skewed, 0.03)])
def test_a_policy_that_draws_as_the_base_is_seldom_noticed(noise, most, alike):
    """0.27% is meant by a threshold of 3, and more is paid for long tails; `alike` is the share of prompts that still draw from
    the same noise what they drew before. Three standard deviations of four set means cry wolf in a quarter of all looks."""
    rng = np.random.default_rng(0)
    runs, beyond, deciding, naive = 600, 0, 0, 0
    for _ in range(runs):
        scale_P = np.exp(0.5 * rng.normal(size=PROMPTS))
        sets = rng.normal(size=PROMPTS) + scale_P * noise(rng, (STATISTICS, SEEDS + 1, PROMPTS))
        kept = rng.random((STATISTICS, PROMPTS)) < alike
        sets[:, SEEDS][kept] = sets[:, 0][kept]
        found = [Band.of(one[:SEEDS], 1e-6).read(one[SEEDS], **RULE) for one in sets]
        beyond += any(one.notable for one in found)
        deciding += found[0].distance > found[0].limit
        means = sets.mean(2)
        naive += bool((np.abs(means[:, -1] - means[:, :SEEDS].mean(1)) > 3 * means[:, :SEEDS].std(1, ddof=1)).any())
    assert beyond / runs < most and deciding / runs < most
    assert naive / runs > 0.25 or alike


def test_the_spread_by_prompts_is_that_of_whole_sets():
    rng = np.random.default_rng(1)
    scale_P = np.exp(rng.normal(size=PROMPTS))
    sets = 5 + scale_P * rng.normal(size=(4000, PROMPTS))
    estimates = [Band.of(sets[k : k + 4], 1e-6).spread ** 2 for k in range(0, 4000, 4)]
    assert np.mean(estimates) == pytest.approx(sets.mean(1).var(), rel=0.06)
    by_sets = [sets[k : k + 4].mean(1).var(ddof=1) for k in range(0, 4000, 4)]
    assert np.std(estimates) < 0.6 * np.std(by_sets)


def test_what_is_a_spread_beyond_the_limit_is_nearly_always_noticed():
    rng = np.random.default_rng(2)
    noticed = 0
    for _ in range(500):
        sets = rng.normal(size=(SEEDS + 1, PROMPTS))
        shifted = sets[SEEDS] + 7 / math.sqrt(PROMPTS)
        noticed += Band.of(sets[:SEEDS], 1e-6).read(shifted, **RULE).notable
    assert noticed > 480
