"""Fitted weights against simulated votes whose weights are known, against scipy, and against finite differences."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from tastemaker.errors import UserMistake
from tastemaker.evaluation.calibrate import MIN_PROMPTS, RIDGE, calibrate, fit_slopes, vote_loss

WEIGHTS = {"general": (0.5, 0.4, 0.1), "portrait": (0.2, 0.2, 0.6), "typography": (0.8, 0.2, 0.0)}
TEMPERATURE = 0.12
RANGES = np.array([[1.0, 5.0], [0.0, 1.0], [-2.0, 2.0]])


def simulated(counts, seed=0, votes_per_prompt=2, weights=WEIGHTS):
    """Votes of simulated people who follow `weights` exactly, up to the logistic noise of the model."""
    rng = np.random.default_rng(seed)
    category = np.repeat(list(counts), list(counts.values()))
    prompt = np.array([f"{name}-{row // votes_per_prompt}" for row, name in enumerate(category)])
    left, right = (rng.uniform(RANGES[:, 0], RANGES[:, 1], (len(category), 3)) for _ in range(2))
    difference = (left - right) / (RANGES[:, 1] - RANGES[:, 0])
    logits = (difference * np.array([weights[name] for name in category])).sum(1) / TEMPERATURE
    choice = (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(float)
    prompt = np.array([f"{name}{label}" for name, label in zip(category, prompt, strict=True)])
    return left, right, choice, category, prompt, RANGES


def problem(seed, num_pairs=200, slopes=(4.0, 2.0, 1.0)):
    rng = np.random.default_rng(seed)
    differences = rng.uniform(-1, 1, (num_pairs, len(slopes)))
    votes = rng.integers(1, 4, num_pairs).astype(float)
    wins = rng.binomial(votes.astype(int), 1 / (1 + np.exp(-differences @ np.array(slopes)))) * 1.0
    return differences, votes, wins


def test_gradient_and_hessian_are_the_derivatives_of_the_loss():
    differences, votes, wins = problem(0)
    at = np.array([2.0, 0.0, 1.5])
    _, gradient, hessian = vote_loss(at, differences, votes, wins, 0.3)
    steps = np.full(3, 1e-6)
    np.testing.assert_allclose(
        gradient, approx_fprime(at, lambda b: vote_loss(b, differences, votes, wins, 0.3)[0], steps), rtol=1e-4
    )
    numeric = approx_fprime(at, lambda b: vote_loss(b, differences, votes, wins, 0.3)[1], steps)
    np.testing.assert_allclose(hessian, numeric, rtol=1e-5)


def test_loss_is_the_binomial_likelihood_written_out_and_does_not_overflow():
    differences, votes, wins = problem(1)
    at = np.array([1.0, 2.0, 0.5])
    p = 1 / (1 + np.exp(-differences @ at))
    by_hand = -(wins * np.log(p) + (votes - wins) * np.log(1 - p)).sum() + 0.25 * (at**2).sum()
    assert vote_loss(at, differences, votes, wins, 0.5)[0] == pytest.approx(by_hand, rel=1e-12)
    assert np.isfinite(vote_loss(at * 1e6, differences, votes, wins, 0.0)[0])


@pytest.mark.parametrize("seed", range(3))
def test_equals_an_unconstrained_fit_where_no_bound_is_active(seed):
    differences, votes, wins = problem(seed)
    free = minimize(
        lambda b: vote_loss(b, differences, votes, wins, RIDGE)[:2],
        np.zeros(3),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-7},
    )
    assert (free.x > 0).all()
    np.testing.assert_allclose(fit_slopes(differences, votes, wins), free.x, atol=1e-5)


def test_equals_the_closed_form_for_one_reward_that_either_differs_by_one_or_not():
    votes, wins = np.array([40.0]), np.array([30.0])
    assert fit_slopes(np.ones((1, 1)), votes, wins, ridge=1e-12)[0] == pytest.approx(np.log(30 / 10), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slopes", [(3.0, -2.0, 1.0), (-1.0, -1.0, 4.0), (-2.0, -1.0, -1.0), (2.0, 0.0, 0.0)])
def test_at_the_bound_the_conditions_of_karush_kuhn_and_tucker_hold(slopes, seed):
    differences, votes, wins = problem(seed, slopes=slopes)
    found = fit_slopes(differences, votes, wins)
    gradient = vote_loss(found, differences, votes, wins, RIDGE)[1]
    assert (found >= 0).all()
    np.testing.assert_allclose(gradient[found > 0], 0, atol=1e-5)
    assert (gradient[found == 0] >= 0).all()
    bounded = minimize(
        lambda b: vote_loss(b, differences, votes, wins, RIDGE)[:2],
        np.ones(3),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * 3,
    )
    assert vote_loss(found, differences, votes, wins, RIDGE)[0] <= bounded.fun + 1e-9
    if min(slopes) < -0.5:
        assert (found == 0).any()


def test_rewards_that_no_vote_contradicts_have_finite_slopes_and_twins_share():
    differences = np.linspace(0.1, 1.0, 20)[:, None] * np.ones((1, 2))
    found = fit_slopes(differences, np.ones(20), np.ones(20))
    assert np.isfinite(found).all() and found[0] == pytest.approx(found[1], rel=1e-6) and found[0] > 0


def test_known_weights_lie_inside_the_intervals():
    inputs = simulated({"general": 900, "portrait": 600, "typography": 600})
    found = calibrate(*inputs, strength=0, resamples=200)
    for name, truth in WEIGHTS.items():
        fit = found.categories[name]
        assert fit.told_apart and fit.weights_R.sum() == pytest.approx(1) and (fit.weights_R >= 0).all()
        assert (fit.low_R - 0.02 <= truth).all() and (truth <= fit.high_R + 0.02).all(), name
        np.testing.assert_allclose(fit.weights_R, truth, atol=0.08)
        assert fit.temperature_low < TEMPERATURE < fit.temperature_high
        assert (fit.high_R - fit.low_R).max() < 0.25
        np.testing.assert_array_equal(found.recommended_R(name), fit.weights_R)


def test_few_votes_are_pulled_to_the_pooled_fit_and_said_to_be_few():
    inputs = simulated({"general": 600, "portrait": 2 * MIN_PROMPTS - 2})
    found = calibrate(*inputs, resamples=100)
    distances = []
    for strength in (0, 20, 1e6):
        fit = calibrate(*inputs, strength=strength, resamples=2)
        distances.append(np.abs(fit.categories["portrait"].weights_R - fit.pooled.weights_R).max())
    assert distances[0] > distances[1] > distances[2] and distances[2] < 1e-3
    assert not found.categories["portrait"].told_apart and found.categories["portrait"].num_prompts == MIN_PROMPTS - 1
    np.testing.assert_allclose(found.recommended_R("portrait"), found.pooled.weights_R)


def test_categories_that_are_alike_are_not_told_apart():
    alike = dict.fromkeys(WEIGHTS, WEIGHTS["general"])
    told = []
    for seed in range(8):
        found = calibrate(*simulated({"general": 200, "portrait": 120, "typography": 120}, seed, weights=alike), resamples=100)
        told += [fit.told_apart for fit in found.categories.values()]
    assert sum(told) <= 4, "24 comparisons at 5%: more than four happen once in a hundred"


def test_ties_are_half_a_vote_for_each_side():
    left, right, choice, category, prompt, ranges = simulated({"general": 300})
    tied = np.where(np.arange(300) % 3 == 0, 0.5, choice)
    fit = calibrate(left, right, tied, category, prompt, ranges, strength=0, resamples=2)
    split = np.concatenate([np.where(tied == 0.5, 1, tied), np.where(tied == 0.5, 0, tied)])
    twice = [np.concatenate([a, a]) for a in (left, right)]
    doubled = calibrate(*twice, split, np.tile(category, 2), np.tile(prompt, 2), ranges, strength=0, resamples=2)
    np.testing.assert_allclose(fit.pooled.weights_R, doubled.pooled.weights_R, atol=1e-3)


def test_exchanging_the_sides_changes_nothing():
    left, right, choice, *rest = simulated({"general": 200, "portrait": 100})
    one, other = calibrate(left, right, choice, *rest, resamples=20), calibrate(right, left, 1 - choice, *rest, resamples=20)
    np.testing.assert_allclose(one.pooled.weights_R, other.pooled.weights_R, atol=1e-9)
    np.testing.assert_allclose(one.categories["portrait"].low_R, other.categories["portrait"].low_R, atol=1e-6)


def test_votes_on_one_prompt_count_as_one_cluster():
    """The same votes, three times over under their own prompt: no narrower. Under prompts of their own: narrower."""
    left, right, choice, category, prompt, ranges = simulated({"general": 150}, votes_per_prompt=1)
    tripled = [np.concatenate([a] * 3) for a in (left, right, choice, category)]
    fresh = np.array([f"{name}-{copy}" for copy in range(3) for name in prompt])
    widths = []
    for arrays in ((left, right, choice, category, prompt), (*tripled, np.tile(prompt, 3)), (*tripled, fresh)):
        fit = calibrate(*arrays, ranges, strength=0, resamples=200).pooled
        widths.append((fit.high_R - fit.low_R)[0])
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert widths[2] < 0.75 * widths[0]


def test_not_asked_is_weight_zero_and_missing_leaves_the_vote_out():
    left, right, choice, category, prompt, ranges = simulated(
        {"general": 200, "landscape": 80}, weights=WEIGHTS | {"landscape": (0.6, 0.4, 0)}
    )
    left[category == "landscape", 2] = np.nan
    right[category == "landscape", 2] = np.nan
    left[0, 0], right[1, 1] = np.nan, np.nan
    found = calibrate(left, right, choice, category, prompt, ranges, resamples=20)
    general, landscape = found.categories["general"], found.categories["landscape"]
    assert (general.num_votes, general.num_missing) == (198, 2) and (landscape.num_votes, landscape.num_missing) == (80, 0)
    assert found.pooled.num_missing == 2
    assert landscape.asked_R.tolist() == [True, True, False] and landscape.weights_R[2] == landscape.high_R[2] == 0
    assert found.recommended_R("landscape").sum() == pytest.approx(1) and found.recommended_R("landscape")[2] == 0


def test_votes_against_all_rewards_have_no_weights():
    left, right, choice, *rest = simulated({"general": 300}, weights={"general": (1 / 3, 1 / 3, 1 / 3)})
    with pytest.raises(UserMistake, match="no reward agrees"):
        calibrate(left, right, 1 - choice, *rest, resamples=2)
    # A category alone that votes the other way: its own fit has no weights, and it is given the pooled ones.
    left, right, choice, category, prompt, ranges = simulated({"general": 900, "portrait": 200})
    choice[category == "portrait"] = 1 - choice[category == "portrait"]
    found = calibrate(left, right, choice, category, prompt, ranges, strength=0, resamples=20)
    fit = found.categories["portrait"]
    assert np.isnan(fit.weights_R).all() and fit.temperature == np.inf and fit.low_R[0] == 0 and fit.high_R[0] == 1
    np.testing.assert_array_equal(found.recommended_R("portrait"), found.pooled.weights_R)


@pytest.mark.parametrize(
    "place, value, words",
    [
        (0, np.zeros((3, 2)), "shapes"),
        (2, np.array([1.0, 0.0, 0.3]), "0.5 for a tie"),
        (5, np.array([[0.0, 0.0]] * 3), "low < high"),
        (1, np.full((3, 3), np.inf), "finite"),
        (4, np.array(["p", "p", "q"]), "two categories"),
        (4, np.array(["p", "q"]), "shapes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(place, value, words):
    arrays = [
        np.zeros((3, 3)),
        np.ones((3, 3)),
        np.array([1.0, 0.0, 0.5]),
        np.array(["a", "b", "b"]),
        np.array(["p", "q", "r"]),
        RANGES,
    ]
    arrays[place] = value
    with pytest.raises(ValueError, match=words):
        calibrate(*arrays)
