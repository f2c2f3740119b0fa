"""Weights of the rewards from people's pair votes: what each has to count for the composite to say which picture people prefer.

    p(left) = sigmoid((composite(left) - composite(right)) / temperature) = sigmoid(sum_k b_k d_k),    b_k = w_k / temperature
    d_k = (left_k - right_k) / (high_k - low_k),    w_k >= 0,  sum_k w_k = 1,  temperature > 0

Bradley-Terry on composites. In (w, temperature) it is not convex; in the slopes b it is logistic regression on b >= 0, which
is. Every b other than 0 is exactly one pair, temperature = 1 / sum b and w = b * temperature, so b is fitted and read that way.
A tie is half a vote for each side.

A category is shrunk towards the pooled fit: it gets `strength` further votes, drawn from all pairs and answered as the pooled
fit would. That adds strength * mean KL(pooled || category) to its loss. It is measured in votes, its minimum is the pooled fit,
and it fades as the category's own votes grow in number.

Intervals are from a bootstrap over prompts within each category, because votes on one prompt are not independent. Left out: a
preference for one side of the screen, which random sides turn into noise, and differences between voters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.special import expit

from tastemaker.errors import UserMistake

STRENGTH = 20.0
"""Votes of the pooled fit that are added to each category's own; suits weights that differ by about 0.15 between categories."""
RIDGE = 1e-3
"""Weight of |b|^2 / 2, in nats: keeps slopes finite where no vote contradicts the rewards, and divides equally between rewards
that always agree. From some tens of votes on it is not seen otherwise."""
MIN_PROMPTS = 20
"""With fewer prompts the bootstrap's intervals are too narrow to tell a category from the pooled fit."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights (R,) with the bounds of their 95% intervals; NaN where no reward agrees with the votes.

    `temperature` is the difference of composites at which the better side gets 73% of the votes, with its interval; inf where
    the votes do not follow the rewards at all.
    """

    weights_R: np.ndarray
    low_R: np.ndarray
    high_R: np.ndarray
    temperature: float
    temperature_low: float
    temperature_high: float
    num_votes: int
    num_prompts: int
    num_missing: int
    """Votes left out because a score of either side is missing."""
    asked_R: np.ndarray
    """bool; False for a reward that no vote of the category has a score of. Its weight is 0."""
    told_apart: bool = False
    """For a category: whether a weight differs from the pooled one, at 5% over all its rewards, on `MIN_PROMPTS` or more."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The fit of all votes, and that of each category, shrunk towards it."""

    pooled: Fit
    categories: Mapping[str, Fit]

    def recommended_R(self, category: str) -> np.ndarray:
        """A category's own weights where it is told apart, else the pooled ones of the rewards it asks, scaled to sum to 1."""
        fit = self.categories[category]
        if fit.told_apart and np.isfinite(fit.weights_R).all():
            return fit.weights_R
        shared_R = np.where(fit.asked_R, self.pooled.weights_R, 0.0)
        return shared_R / shared_R.sum() if shared_R.sum() > 0 else fit.asked_R / fit.asked_R.sum()


def calibrate(
    left_NR: np.ndarray,
    right_NR: np.ndarray,
    choice_N: np.ndarray,
    category_N: np.ndarray,
    prompt_N: np.ndarray,
    ranges_R2: np.ndarray,
    *,
    strength: float = STRENGTH,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Weights from N votes: scores of both sides, `choice_N` 1 for left, 0.5 for a tie and 0 for right, and two labels a vote.

    A reward that is NaN in all votes of a category is not asked there. Otherwise a vote with a NaN is left out and counted.
    Raises ValueError for arrays that do not fit together, and UserMistake where no reward agrees with the votes, a category
    has no scores, or no vote has all of its scores.
    """
    votes = _Votes.checked(left_NR, right_NR, choice_N, category_N, prompt_N, ranges_R2)
    if not strength >= 0 or resamples < 2:
        raise ValueError(f"strength is {strength} and resamples {resamples}; needs at least 0 and 2")
    point = votes.slopes(np.ones(len(votes.choice_N)), strength)
    if not point[0].any():
        raise UserMistake(
            "no reward agrees with the votes: whichever counts, people choose the other side as often or more; check that left "
            "and right are not exchanged, and which rewards are scored"
        )
    rng = np.random.default_rng(seed)
    drawn = np.stack([votes.slopes(votes.resample(rng), strength, near=point) for _ in range(resamples)])
    return Calibration(
        _summary(votes, None, point, drawn),
        {str(name): _summary(votes, place, point, drawn) for place, name in enumerate(votes.names)},
    )


def fit_slopes(
    differences_NR: np.ndarray,
    votes_N: np.ndarray,
    wins_N: np.ndarray,
    *,
    ridge: float = RIDGE,
    start_R: np.ndarray | None = None,
) -> np.ndarray:
    """(R,) the minimum of `vote_loss` over slopes of at least 0.

    Newton's method: each step's quadratic model is minimised over the same bounds, exactly, as least squares of a Cholesky
    factor (Lawson and Hanson's NNLS), so that a slope of 0 is 0 and not nearly so. Needs ridge > 0, or differences of full
    rank.
    """
    slopes_R = np.zeros(differences_NR.shape[1]) if start_R is None else start_R
    value, gradient_R, hessian_RR = vote_loss(slopes_R, differences_NR, votes_N, wins_N, ridge)
    for _ in range(100):
        factor_RR = np.linalg.cholesky(hessian_RR)
        goal_R = solve_triangular(factor_RR, hessian_RR @ slopes_R - gradient_R, lower=True)
        step_R = nnls(factor_RR.T, goal_R)[0] - slopes_R
        decrease = -float(gradient_R @ step_R)
        if decrease <= 1e-13:
            return slopes_R
        length = 1.0
        while True:
            trial_R = slopes_R + length * step_R
            trial = vote_loss(trial_R, differences_NR, votes_N, wins_N, ridge)
            if trial[0] <= value - 1e-4 * length * decrease + 1e-12 * abs(value) or length < 1e-6:
                break
            length /= 2
        slopes_R, (value, gradient_R, hessian_RR) = np.maximum(trial_R, 0.0), trial
    raise ArithmeticError(f"the fit has not converged in 100 steps; slopes {slopes_R.tolist()}")


def vote_loss(
    slopes_R: np.ndarray, differences_NR: np.ndarray, votes_N: np.ndarray, wins_N: np.ndarray, ridge: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss in nats, gradient (R,) and Hessian (R, R) of N pairs with `votes_N` votes each, `wins_N` of them for the left side.

    -sum_i [wins_i log p_i + (votes_i - wins_i) log(1 - p_i)] + ridge |b|^2 / 2,    p = sigmoid(differences b)
    """
    logits_N = differences_NR @ slopes_R
    left_N = expit(logits_N)
    value = float(votes_N @ np.logaddexp(0.0, logits_N) - wins_N @ logits_N + ridge * slopes_R @ slopes_R / 2)
    gradient_R = differences_NR.T @ (votes_N * left_N - wins_N) + ridge * slopes_R
    curvature_N = votes_N * left_N * (1.0 - left_N)
    hessian_RR = (differences_NR.T * curvature_N) @ differences_NR + ridge * np.eye(len(slopes_R))
    return value, gradient_R, hessian_RR


@dataclass(frozen=True, eq=False)
class _Votes:
    """The complete votes: differences with 0 where a reward is not asked, and the place of each vote's category and prompt."""

    differences_NR: np.ndarray
    choice_N: np.ndarray
    category_N: np.ndarray
    prompt_N: np.ndarray
    names: np.ndarray
    asked_CR: np.ndarray
    missing_C: np.ndarray

    @classmethod
    def checked(
        cls,
        left_NR: np.ndarray,
        right_NR: np.ndarray,
        choice_N: np.ndarray,
        category_N: np.ndarray,
        prompt_N: np.ndarray,
        ranges_R2: np.ndarray,
    ) -> _Votes:
        left_NR, right_NR, choice_N, ranges_R2 = (np.asarray(a, np.float64) for a in (left_NR, right_NR, choice_N, ranges_R2))
        shapes = [np.shape(a) for a in (left_NR, right_NR, choice_N, category_N, prompt_N, ranges_R2)]
        n, r = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        if n == 0 or r == 0 or shapes != [(n, r), (n, r), (n,), (n,), (n,), (r, 2)]:
            raise ValueError(f"shapes {shapes}; expected (N, R), (N, R), (N,), (N,), (N,), (R, 2) with at least one vote")
        if not np.isin(choice_N, (0.0, 0.5, 1.0)).all():
            raise ValueError("choice_N must be 1 for left, 0.5 for a tie and 0 for right")
        width_R = ranges_R2[:, 1] - ranges_R2[:, 0]
        if not (width_R > 0).all() or np.isinf([left_NR, right_NR]).any():
            raise ValueError("needs low < high for every reward, and scores that are finite, or NaN where they are missing")
        names, category_N = np.unique(np.asarray(category_N), return_inverse=True)
        prompts, prompt_N = np.unique(np.asarray(prompt_N), return_inverse=True)
        if len(np.unique(np.stack([category_N, prompt_N]), axis=1).T) > len(prompts):
            raise ValueError("a prompt has votes in two categories; its category must be one")
        differences_NR = (left_NR - right_NR) / width_R
        present_NR = ~np.isnan(differences_NR)
        asked_CR = np.stack([present_NR[category_N == place].any(0) for place in range(len(names))])
        if not asked_CR.any(1).all():
            raise UserMistake(f"category {str(names[~asked_CR.any(1)][0])!r}: no vote has a score of both sides; leave it out")
        whole_N = (present_NR | ~asked_CR[category_N]).all(1)
        if not whole_N.any():
            raise UserMistake(
                "no vote has the scores of all rewards on both sides, so none can be used; see which rewards fail, and score "
                "the missing pictures or leave those rewards out"
            )
        missing_C = np.bincount(category_N[~whole_N], minlength=len(names))
        filled_NR = np.where(present_NR, differences_NR, 0.0)[whole_N]
        return cls(filled_NR, choice_N[whole_N], category_N[whole_N], prompt_N[whole_N], names, asked_CR, missing_C)

    def slopes(self, counts_N: np.ndarray, strength: float, near: np.ndarray | None = None) -> np.ndarray:
        """(1 + C, R): the pooled fit and those of the categories, with `counts_N` times each vote; `near` is where to start."""
        all_R = fit_slopes(self.differences_NR, counts_N, counts_N * self.choice_N, start_R=None if near is None else near[0])
        rows = [all_R]
        lent_N = strength * counts_N / max(counts_N.sum(), 1.0)
        for place, asked_R in enumerate(self.asked_CR):
            own_N = counts_N * (self.category_N == place)
            differences_NR = self.differences_NR[:, asked_R]
            wins_N = own_N * self.choice_N + lent_N * expit(differences_NR @ all_R[asked_R])
            start_R = (all_R if near is None else near[1 + place])[asked_R]
            rows.append(np.zeros_like(all_R))
            rows[-1][asked_R] = fit_slopes(differences_NR, own_N + lent_N, wins_N, start_R=start_R)
        return np.stack(rows)

    def resample(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) how often each vote counts when the prompts of each category are drawn again, with replacement."""
        counts = np.zeros(self.prompt_N.max(initial=0) + 1)
        for place in range(len(self.names)):
            prompts = np.unique(self.prompt_N[self.category_N == place])
            if len(prompts):
                counts[prompts] = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)))
        return counts[self.prompt_N]


def _summary(votes: _Votes, place: int | None, point: np.ndarray, drawn: np.ndarray) -> Fit:
    """Of all votes for None, else of a category. `point` is (1 + C, R), `drawn` has a resample's slopes in each row."""
    row = 0 if place is None else 1 + place
    mine_N = np.full(len(votes.category_N), True) if place is None else votes.category_N == place
    asked_R: np.ndarray = np.any(votes.asked_CR, axis=0) if place is None else votes.asked_CR[place]
    weights_R, weights_BR = _simplex(point[row]), _simplex(drawn[:, row])
    low_R, high_R = _interval(weights_BR, 0.05)
    # Where a resample has no weights, anything could be; too many of them and nothing is known.
    if np.isnan(weights_BR[:, 0]).mean() > 0.025:
        low_R, high_R = np.where(asked_R, 0.0, low_R), np.where(asked_R, 1.0, high_R)
    with np.errstate(divide="ignore"):
        temperature, drawn_temperature = 1 / point[row].sum(), 1 / drawn[:, row].sum(1)
    cool, warm = np.quantile(drawn_temperature, (0.025, 0.975), method="nearest")
    apart = False
    num_prompts = len(np.unique(votes.prompt_N[mine_N]))
    if place is not None and num_prompts >= MIN_PROMPTS:
        shared_BR = _simplex(np.where(asked_R, drawn[:, 0], 0.0))
        below_R, above_R = _interval((weights_BR - shared_BR)[:, asked_R], 0.05 / asked_R.sum())
        apart = bool(((below_R > 0) | (above_R < 0)).any())
    return Fit(
        weights_R,
        low_R,
        high_R,
        float(temperature),
        float(cool),
        float(warm),
        num_votes=int(mine_N.sum()),
        num_prompts=num_prompts,
        num_missing=int(votes.missing_C.sum() if place is None else votes.missing_C[place]),
        asked_R=asked_R,
        told_apart=apart,
    )


def _simplex(slopes: np.ndarray) -> np.ndarray:
    """Slopes (..., R) to weights that sum to 1; NaN where all slopes are 0."""
    total = slopes.sum(-1, keepdims=True)
    return np.divide(slopes, total, out=np.full_like(slopes, np.nan), where=total > 0)


def _interval(values_BR: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the central 1 - `level` of each column, over the rows that have a value; NaN where none has."""
    present = values_BR[~np.isnan(values_BR).any(1)]
    if not len(present):
        return (np.full(values_BR.shape[1], np.nan),) * 2
    low, high = np.quantile(present, (level / 2, 1 - level / 2), axis=0)
    return low, high
