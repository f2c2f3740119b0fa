"""Elo differences against a Bradley-Terry fit, Elo's own expectation, a profile likelihood, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import chi2

from tastemaker.evaluation.ranking import elo, elo_of, points_of

NAMES = {"pair": ("new", "old"), "task": "t2i", "guidance": 1.0, "by": "truth", "category": "all"}


def row(wins, ties, losses):
    return elo(np.array([1.0] * wins + [0.5] * ties + [0.0] * losses), **NAMES)


@pytest.mark.parametrize(("wins", "ties", "losses"), [(30, 0, 10), (90, 400, 20), (7, 1, 9), (3, 0, 3)])
def test_the_rating_is_the_maximum_of_bradley_and_terrys_likelihood(wins, ties, losses):
    """Two abilities, ties as half a win and half a loss, fitted by a numerical optimiser in natural units."""

    def loss(abilities):
        won = -np.log1p(np.exp(abilities[1] - abilities[0]))
        lost = -np.log1p(np.exp(abilities[0] - abilities[1]))
        return -((wins + ties / 2) * won + (losses + ties / 2) * lost) + 1e-9 * np.sum(abilities**2)

    fitted = minimize(loss, np.zeros(2), tol=1e-12).x
    assert row(wins, ties, losses).rating == pytest.approx(400 / math.log(10) * (fitted[0] - fitted[1]), abs=0.05)


def test_elos_own_table():
    """The expected score of a player 78, 93 or 200 points above the other."""
    for rating, expected in ((78, 0.6104), (93, 0.6308), (200, 0.7597)):
        assert elo_of(2 * expected - 1) == pytest.approx(rating, abs=0.1)
        assert elo_of(1 - 2 * expected) == pytest.approx(-rating, abs=0.1)
    assert elo_of(0.0) == 0 and math.isnan(elo_of(1.0)) and math.isnan(elo_of(-1.0)) and math.isnan(elo_of(math.nan))


@pytest.mark.parametrize(("wins", "ties", "losses"), [(90, 400, 20), (60, 30, 40), (150, 300, 150)])
def test_the_interval_is_near_that_of_the_profile_likelihood(wins, ties, losses):
    """Trinomial likelihood of (win, tie, loss), tie probability profiled out; another principle than a score test."""
    n = wins + ties + losses

    def log_likelihood(difference):
        def loss(tie):
            win, lose = (1 - tie + difference) / 2, (1 - tie - difference) / 2
            return -sum(count * math.log(max(p, 1e-300)) for count, p in ((wins, win), (ties, tie), (losses, lose)))

        return -minimize_scalar(loss, bounds=(1e-9, 1 - abs(difference) - 1e-9), method="bounded", options={"xatol": 1e-10}).fun

    best = log_likelihood((wins - losses) / n)
    inside = [d for d in np.linspace(-0.9, 0.9, 3601) if 2 * (best - log_likelihood(d)) <= chi2.ppf(0.95, 1)]
    found = row(wins, ties, losses)
    assert (found.low, found.high) == pytest.approx((elo_of(inside[0]), elo_of(inside[-1])), abs=2.0)


def test_the_interval_covers_the_true_rating():
    rng = np.random.default_rng(0)
    for win, tie in ((0.2, 0.7), (0.55, 0.15), (0.02, 0.97)):
        truth = elo_of(win - (1 - win - tie))
        covered = []
        for _ in range(400):
            wins, ties, losses = rng.multinomial(150, (win, tie, 1 - win - tie))
            found = row(wins, ties, losses)
            covered.append(found.low <= truth <= found.high)
        assert 0.925 <= np.mean(covered) <= 0.98, (win, tie)


def test_ties_missing_verdicts_and_extremes():
    points = points_of(
        np.array([0.9, 0.5, 0.2, np.nan, 0.31]), np.array([0.5, 0.5, 0.3, 0.1, 0.30]), np.array([0.1, 0, 0, 0, 0.05])
    )
    np.testing.assert_array_equal(points, [1, 0.5, 0, np.nan, 0.5])
    found = elo(points, **NAMES, against_guidance=3.0)
    assert (found.n, found.wins, found.ties, found.losses, found.missing) == (4, 1, 2, 1, 1) and found.rating == 0
    every = row(20, 0, 0)
    assert math.isnan(every.rating) and math.isnan(every.high) and every.low > 100
    assert (
        all(math.isnan(value) for value in (row(0, 0, 0).rating, row(1, 0, 0).low, row(0, 1, 0).low))
        and row(0, 1, 0).rating == 0
    )
    mirrored = row(3, 10, 8)
    assert (mirrored.rating, mirrored.low) == pytest.approx((-row(8, 10, 3).rating, -row(8, 10, 3).high))
