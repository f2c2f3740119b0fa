"""Do the 95% intervals hold the truth 95% of the time? Shares and pairs by summing over every outcome, scores by simulation."""

import numpy as np
import pytest
from scipy import optimize, stats

from tastemaker.evaluation.statistics import paired_difference, proportion

Z = stats.norm.ppf(0.975)


@pytest.mark.parametrize(("p", "n"), [(0.5, 40), (0.3, 60), (0.8, 100), (0.1, 200), (0.95, 300)])
def test_wilson_covers_the_true_share(p, n):
    found = [proportion(np.arange(n) < k) for k in range(n + 1)]
    held = np.array([e.low <= p <= e.high for e in found])
    assert 0.93 <= (stats.binom.pmf(np.arange(n + 1), n, p) * held).sum() <= 0.97


def _pairs(won, lost, n):
    after = np.zeros(n)
    before = np.zeros(n)
    after[:won] = 1
    before[won : won + lost] = 1
    return after, before


@pytest.mark.parametrize(("won", "lost", "n"), [(0.2, 0.2, 50), (0.3, 0.1, 50), (0.15, 0.05, 80), (0.45, 0.05, 40)])
def test_tango_covers_the_true_paired_difference(won, lost, n):
    total = held = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            probability = stats.multinomial.pmf([b, c, n - b - c], n, [won, lost, 1 - won - lost])
            if probability < 1e-5:
                continue
            found = paired_difference(*_pairs(b, c, n))
            total += probability
            held += probability * (found.low <= won - lost <= found.high)
    assert total > 0.99
    assert 0.93 <= held / total <= 0.97


@pytest.mark.parametrize("draw", [stats.norm(0.3, 1), stats.gamma(2, loc=-1.5)], ids=["normal", "skewed"])
def test_bootstrap_covers_the_true_mean_difference(draw):
    samples = draw.rvs((600, 80), random_state=np.random.default_rng(3))
    found = [paired_difference(row, np.zeros(80), resamples=800, seed=i) for i, row in enumerate(samples)]
    held = np.mean([e.low <= draw.mean() <= e.high for e in found])
    assert 0.925 <= held <= 0.97  # the simulation's own error is 0.9 points


@pytest.mark.parametrize(("k", "n"), [(0, 12), (3, 12), (50, 81), (81, 81)])
def test_wilson_is_the_closed_form_of_the_textbook(k, n):
    found = proportion(np.arange(n) < k)
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("won", "lost", "n"), [(7, 2, 30), (0, 4, 20), (30, 11, 100), (1, 0, 44)])
def test_tangos_bounds_are_where_the_score_test_rejects(won, lost, n):
    """Against the score test with its nuisance probability found by maximising the likelihood numerically."""
    found = paired_difference(*_pairs(won, lost, n))
    for bound in (found.low, found.high):
        floor = max(0.0, -bound)

        def surprise(q, bound=bound):
            p = np.array([q + bound, q, 1 - 2 * q - bound])
            return -sum(k * np.log(max(x, 1e-300)) for k, x in zip((won, lost, n - won - lost), p, strict=True) if k)

        q = optimize.minimize_scalar(surprise, bounds=(floor, (1 - bound) / 2), method="bounded", options={"xatol": 1e-12}).x
        z = (won - lost - n * bound) / np.sqrt(n * (2 * q + bound - bound**2))
        assert abs(z) == pytest.approx(Z, abs=2e-4)


@pytest.mark.parametrize("n", [2, 10, 500])
def test_no_disagreement_at_all_has_a_closed_form(n):
    found = paired_difference(np.ones(n), np.ones(n))
    assert (found.low, found.high) == pytest.approx((-(Z**2) / (n + Z**2), Z**2 / (n + Z**2)), abs=1e-9)


def test_tango_is_near_agresti_and_min_for_a_large_sample():
    b, c, n = 120, 60, 500
    found = paired_difference(*_pairs(b, c, n))
    b, c, n = b + 0.5, c + 0.5, n + 2  # Agresti and Min 2005: half a count in each of the four cells
    half = Z * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (found.low, found.high) == pytest.approx(((b - c) / n - half, (b - c) / n + half), abs=2e-3)


def test_bootstrap_agrees_with_scipys():
    scores = np.random.default_rng(5).gamma(2, size=150)
    found = paired_difference(scores, np.zeros(150), resamples=20000)
    expected = stats.bootstrap((scores,), np.mean, n_resamples=20000, method="BCa", batch=500, rng=np.random.default_rng(1))
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
