"""Do intervals over prompts hold the truth 95% of the time, where the pictures of a prompt are alike?"""

import math

import numpy as np
import pytest
from scipy import stats

from tastemaker.evaluation.agreement import across_prompts, calibration_error, krippendorff_alpha, pair_agreement
from tastemaker.evaluation.bootstrap import bca_bounds, bootstrap_draws, cluster_interval

TRIALS = 250  # the simulation's own standard error is 1.4 points at 95%


def share_held(draw, measure, truth, trials=TRIALS):
    found = [measure(*draw(np.random.default_rng(trial))) for trial in range(trials)]
    return np.mean([one.low <= truth <= one.high for one in found])


def test_the_mean_is_scipys_bca_interval():
    values = stats.gamma(2).rvs(60, random_state=np.random.default_rng(3))
    value, low, high = cluster_interval(lambda counts: counts @ values / counts.sum(1), 60, resamples=20_000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=np.random.default_rng(0)).confidence_interval
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)  # 0.19 is the standard error


def test_a_skewed_statistic_too():
    """A ratio of sums, whose bias and skewness the correction is for, against scipy on the same two columns."""
    rng = np.random.default_rng(5)
    above, below = rng.gamma(2, size=(2, 40))
    found = cluster_interval(lambda counts: (counts @ above) / (counts @ below), 40, resamples=20_000)
    expected = stats.bootstrap(
        (above, below), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, n_resamples=20_000, rng=rng, vectorized=True
    ).confidence_interval
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.03)


def test_chunks_change_nothing():
    values = np.random.default_rng(0).normal(size=30)

    def mean(counts):
        return counts @ values / counts.sum(1)

    whole, chunked = (bootstrap_draws(mean, 30, width=width, resamples=100) for width in (1, 300_000))
    assert whole.shape == (100,) and chunked == pytest.approx(whole)
    assert cluster_interval(mean, 30, width=300_000) == pytest.approx(cluster_interval(mean, 30))


def test_what_the_data_do_not_say_is_nan():
    same = cluster_interval(lambda counts: np.ones(len(counts)), 9)
    assert same[0] == 1 and all(map(math.isnan, same[1:]))
    assert all(map(math.isnan, cluster_interval(lambda counts: counts[:, 0], 0)))
    often = cluster_interval(lambda counts: np.where(counts[:, 0] > 0, counts[:, 1], np.nan), 9)
    assert often[0] == 1 and all(map(math.isnan, often[1:]))  # a third of the draws have no first cluster
    draws = np.r_[np.linspace(0, 1, 99), np.nan]
    assert bca_bounds(0.5, draws, np.array([0.5, 0.5])) == pytest.approx((0.025, 0.975), abs=0.02)


def pairs_of_prompts(rng):
    """40 prompts of 1 to 9 pairs; some prompts are easy for the judge and some hard."""
    sizes = rng.integers(1, 10, 40)
    right = rng.random(sizes.sum()) < np.repeat(rng.beta(3, 1, 40), sizes)
    return np.where(right, 1, -1), np.repeat(np.arange(40), sizes)


def test_pair_accuracy_covers_where_prompts_differ():
    def measure(margin, prompts):
        return pair_agreement(margin, margin, np.ones(len(margin)), prompts, resamples=300).as_shown

    def careless(margin, prompts):
        return measure(margin, np.arange(len(margin)))

    assert 0.90 <= share_held(pairs_of_prompts, measure, 0.75) <= 0.98
    assert share_held(pairs_of_prompts, careless, 0.75, trials=80) < 0.88  # pairs redrawn one by one: why prompts are


def test_spearman_covers():
    """Scores made of a prompt's part and a picture's part; the truth is the normal's 6/pi arcsin(r/2)."""
    r = 0.6

    def draw(rng):
        parts = [rng.multivariate_normal([0, 0], [[1, r], [r, 1]], n) for n in (50, 250)]
        both = (np.repeat(parts[0], 5, axis=0) + parts[1]).T
        return *both, np.repeat(np.arange(50), 5)

    truth = 6 / np.pi * np.arcsin(r / 2)
    assert 0.90 <= share_held(draw, lambda *data: across_prompts(*data, resamples=400), truth) <= 0.98


def test_alpha_covers():
    """Raters with a common part of variance 2 and noise of variance 1: alpha for intervals tends to 2/3."""

    def draw(rng):
        return (np.round(2 * (rng.normal(0, 2**0.5, (60, 1)) + rng.normal(size=(60, 3)))),)

    found = share_held(draw, lambda table: krippendorff_alpha(table, level="interval", resamples=300), 2 / (3 + 1 / 48))
    assert 0.90 <= found <= 0.98


@pytest.mark.parametrize("off", [0.0, 0.05, 0.3])
def test_calibration_error_covers_also_where_it_is_nothing(off):
    """A judge that is `off` everywhere. Redraws of |gap| lie above the value: at 0 their quantiles never reach the truth."""

    def draw(rng):
        judge = rng.uniform(0, 0.7, 400)
        return judge, (rng.random(400) < judge + off).astype(float), np.arange(400) // 4

    found = share_held(draw, lambda *data: calibration_error(*data, low=0, high=1, resamples=300), off)
    assert found >= 0.93
