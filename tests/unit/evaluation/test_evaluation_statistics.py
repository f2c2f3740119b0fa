import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.evaluation.statistics import Estimate, paired_difference, proportion

NAN = math.nan
verdict = st.sampled_from([0.0, 1.0, NAN])


def test_nothing_observed_is_nothing_known():
    for found in (proportion([]), proportion([None, NAN]), paired_difference([], []), paired_difference([1.0], [NAN])):
        assert found.n == 0
        assert all(math.isnan(x) for x in (found.value, found.low, found.high))
        assert not found.excludes_zero
    assert proportion([None, NAN]).missing == 2


def test_one_observation_has_a_value_and_no_interval():
    for found, value in (
        (proportion([True]), 1.0),
        (paired_difference([0.75], [0.25]), 0.5),
        (paired_difference([0], [1]), -1.0),
    ):
        assert (found.n, found.value) == (1, value)
        assert math.isnan(found.low) and math.isnan(found.high)


def test_a_missing_verdict_takes_its_pair_along_and_is_counted():
    found = paired_difference([True, None, True, False, True], [False, True, None, False, False])
    assert (found.n, found.missing) == (3, 2)
    assert found.value == pytest.approx(2 / 3)


def test_extreme_shares_still_have_an_interval():
    assert proportion([False] * 20).low == 0 and 0.1 < proportion([False] * 20).high < 0.2
    assert proportion([True] * 20).high == 1
    assert paired_difference([1] * 9, [0] * 9).high == 1
    assert paired_difference([0] * 9, [1] * 9).low == -1


def test_scores_that_do_not_differ_give_no_interval():
    found = paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert found.value == 0
    assert math.isnan(found.low) and math.isnan(found.high)


def test_the_same_scores_give_the_same_interval():
    a, b = np.random.default_rng(0).random((2, 30))
    assert paired_difference(a, b) == paired_difference(a, b)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: proportion([0.5, 1.0]), "paired_difference"),
        (lambda: proportion([[True], [False]]), r"shape \(2, 1\)"),
        (lambda: proportion([math.inf]), "infinite"),
        (lambda: paired_difference([1, 0], [1]), "2 values after but 1 before"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@given(st.lists(st.tuples(verdict, verdict), max_size=40))
def test_paired_intervals_hold_their_value_and_mirror(pairs):
    after, before = [a for a, _ in pairs], [b for _, b in pairs]
    found, mirrored = paired_difference(after, before), paired_difference(before, after)
    assert found.n + found.missing == len(pairs)
    if found.n > 1:
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-8)


@given(st.lists(verdict, max_size=60))
def test_shares_stay_inside_their_interval(verdicts):
    found = proportion(verdicts)
    if found.n > 1:
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_excludes_zero():
    assert Estimate(9, 0.2, 0.1, 0.3).excludes_zero
    assert Estimate(9, -0.2, -0.3, -0.1).excludes_zero
    assert not Estimate(9, 0.1, -0.1, 0.3).excludes_zero
