"""Agreement of a judge with people, against scipy, against published numbers and by what must not change it."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tastemaker.evaluation.agreement import (
    across_prompts,
    calibration_error,
    fit_isotonic,
    krippendorff_alpha,
    pair_agreement,
    rater_table,
    recalibrate,
    within_prompts,
)
from tastemaker.evaluation.bootstrap import bootstrap_draws

NAN = math.nan
KRIPPENDORFF_2011 = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
"""Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C: 12 units, 4 observers."""

RANKS = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}


def drawn(seed, prompts=12, pictures=6, levels=5):
    """People's scores 1 to 5, and a judge that follows them with noise and ties."""
    rng = np.random.default_rng(seed)
    people = rng.integers(1, levels + 1, prompts * pictures).astype(float)
    judge = np.round(people + rng.normal(0, 1.5, people.size), 0)
    return judge, people, np.repeat(np.arange(prompts), pictures)


@pytest.mark.parametrize("rank", ["spearman", "kendall"])
@pytest.mark.parametrize("seed", range(5))
def test_rank_correlations_are_scipys(rank, seed):
    judge, people, prompts = drawn(seed)
    across = across_prompts(judge, people, prompts, rank=rank, resamples=50)
    assert across.value == pytest.approx(RANKS[rank](judge, people).statistic, abs=1e-12)
    assert (across.n, across.num_prompts, across.missing) == (72, 12, 0)
    within = within_prompts(judge, people, prompts, rank=rank, resamples=50)
    each = [RANKS[rank](judge[prompts == p], people[prompts == p]).statistic for p in range(12)]
    assert within.value == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize("rank", ["spearman", "kendall"])
def test_a_redraw_is_the_statistic_of_the_repeated_rows(rank, monkeypatch):
    """Every redraw, computed from counts, against scipy on the rows written out as often as their prompt was drawn."""
    judge, people, prompts = drawn(7, prompts=6)
    seen = []

    def spy(statistic, num_clusters, **options):
        rng = np.random.default_rng(0)
        counts = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), 20).astype(float)
        seen.append((counts, statistic(counts)))
        return bootstrap_draws(statistic, num_clusters, **options)

    monkeypatch.setattr("tastemaker.evaluation.bootstrap.bootstrap_draws", spy)
    across_prompts(judge, people, prompts, rank=rank, resamples=50)
    ((counts, values),) = seen
    for times, value in zip(counts.astype(int), values, strict=True):
        rows = np.repeat(np.arange(36), times[prompts])
        assert value == pytest.approx(RANKS[rank](judge[rows], people[rows]).statistic, abs=1e-12)


def test_within_and_across_tell_different_things():
    """A judge that knows which prompts are hard but turns every prompt's order around."""
    easy = np.repeat(np.arange(20) * 10.0, 4)
    order = np.tile(np.arange(4.0), 20)
    prompts = np.repeat(np.arange(20), 4)
    assert across_prompts(easy - order, easy + order, prompts, resamples=50).value > 0.95
    assert within_prompts(easy - order, easy + order, prompts, resamples=50).value == -1


def test_prompts_without_spread_are_left_out_and_a_judge_without_spread_counts_zero():
    people = [1, 2, 3, 3, 3, 3, 1, 2, 3, 5]
    judge = [1, 2, 3, 1, 2, 3, 4, 4, 4, 5]
    prompts = ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"]
    found = within_prompts(judge, people, prompts)
    assert (found.value, found.n, found.num_prompts, found.prompts_without_spread) == (0.5, 6, 2, 2)
    nothing = within_prompts(judge[3:6], people[3:6], prompts[3:6])
    assert math.isnan(nothing.value) and (nothing.n, nothing.num_prompts, nothing.prompts_without_spread) == (0, 0, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["spearman", "kendall"]))
def test_ranks_do_not_see_the_scale_nor_the_order_of_rows(seed, rank):
    judge, people, prompts = drawn(seed, prompts=5, pictures=4)
    shuffled = np.random.default_rng(seed).permutation(len(judge))
    for measure in (within_prompts, across_prompts):
        plain = measure(judge, people, prompts, rank=rank, resamples=20).value
        assert measure(np.exp(judge / 3), people * 7 - 2, prompts, rank=rank, resamples=20).value == pytest.approx(plain)
        assert measure(-judge, people, prompts, rank=rank, resamples=20).value == pytest.approx(-plain)
        mixed = measure(judge[shuffled], people[shuffled], prompts[shuffled], rank=rank, resamples=20).value
        assert mixed == pytest.approx(plain) and -1 <= plain <= 1


def test_missing_scores_leave_and_are_counted():
    judge, people, prompts = drawn(3)
    holed = judge.copy()
    holed[[0, 5, 40]] = NAN
    kept = ~np.isnan(holed)
    found = across_prompts(holed, people, prompts)
    assert found.missing == 3 and dataclasses.replace(found, missing=0) == across_prompts(
        judge[kept], people[kept], prompts[kept]
    )
    with pytest.raises(ValueError, match="infinite"):
        across_prompts(np.full(72, np.inf), people, prompts)
    with pytest.raises(ValueError, match="one prompt for each"):
        across_prompts(judge[:5], people, prompts)


def test_one_prompt_has_a_value_and_no_interval():
    found = across_prompts([1, 2, 3, 4], [1, 2, 4, 3], [0] * 4)
    assert found.value == pytest.approx(0.8) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(across_prompts([], [], []).value) and across_prompts([], [], []).n == 0
    assert math.isnan(across_prompts([1, 1, 1, 1], [1, 2, 3, 4], [0, 0, 1, 1]).value)


def test_the_seed_decides_the_interval_and_nothing_else_does():
    judge, people, prompts = drawn(3)
    first = across_prompts(judge, people, prompts, seed=1)
    assert first == across_prompts(judge, people, prompts, seed=1)
    assert first.low != across_prompts(judge, people, prompts, seed=2).low
    assert first.low < first.value < first.high


# -- pairs --------------------------------------------------------------------------------------------------------------


def test_pairs_counted_by_hand():
    """Eight pairs: right, wrong, turned by position, a judge's tie, people's ties, and a missing answer."""
    as_shown = [1.0, -0.5, 2.0, 0.0, 1.0, 0.0, NAN, -1.0]
    exchanged = [0.5, -0.5, -1.0, 0.0, -1.0, 0.0, 1.0, -2.0]
    people = [1, 1, 1, 1, 0, 0, 1, -1]
    found = pair_agreement(as_shown, exchanged, people, range(8))
    assert (found.as_shown.n, found.as_shown.missing, found.consistent.n) == (5, 1, 7)
    assert found.as_shown.value == pytest.approx((1 + 0 + 1 + 0.5 + 1) / 5)
    assert found.exchanged.value == pytest.approx((1 + 0 + 0 + 0.5 + 1) / 5)
    assert found.both.value == pytest.approx(2 / 5)
    assert found.consistent.value == pytest.approx(5 / 7)
    assert found.left_bias.value == pytest.approx(2 / 7)  # two pairs whose left picture won both times


def test_a_judge_that_always_picks_the_left():
    people = np.random.default_rng(0).choice([-1, 1], 200)
    found = pair_agreement(np.ones(200), -np.ones(200), people, np.arange(200) // 4)
    assert found.as_shown.value + found.exchanged.value == pytest.approx(1)
    assert (found.both.value, found.consistent.value, found.left_bias.value) == (0, 0, 1)
    right = pair_agreement(-np.ones(200), np.ones(200), people, np.arange(200) // 4)
    assert right.left_bias.value == -1


def test_a_pointwise_judge_has_no_order():
    rng = np.random.default_rng(1)
    margin, people = rng.normal(size=100), rng.choice([-1, 0, 1], 100)
    found = pair_agreement(margin, margin, people, np.arange(100) // 5)
    assert found.as_shown == found.exchanged and found.both.value == found.as_shown.value
    assert (found.consistent.value, found.left_bias.value) == (1, 0)
    turned = pair_agreement(-margin, -margin, -people, np.arange(100) // 5)
    assert turned == found


# -- calibration --------------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    judge = [0.05, 0.08, 0.55, 0.6, 1.0]
    people = [0, 1, 1, 1, 0]
    expected = (abs(0.13 - 1) + abs(0.55 - 1) + abs(0.6 - 1) + 1) / 5  # bins [0, .1), [.5, .6), [.6, .7), [.9, 1]
    found = calibration_error(judge, people, range(5), low=0, high=1)
    assert found.value == pytest.approx(expected)
    whole = calibration_error(judge, people, range(5), low=0, high=1, bins=1)
    assert whole.value == pytest.approx(abs(np.mean(judge) - np.mean(people)))
    scaled = calibration_error(np.multiply(judge, 4) + 1, np.multiply(people, 4) + 1, range(5), low=1, high=5)
    assert scaled.value == pytest.approx(4 * expected)
    with pytest.raises(ValueError, match=r"beyond \[0, 1\]"):
        calibration_error([1.2], [1], [0], low=0, high=1)
    assert math.isnan(calibration_error([], [], [], low=0, high=1).value)


@pytest.mark.parametrize("seed", range(3))
def test_the_isotonic_fit_is_the_best_nondecreasing_map(seed):
    """Against the max-min formula: the fit at i is max over j <= i of min over k >= i of the mean from j to k."""
    rng = np.random.default_rng(seed)
    judge, people = rng.integers(0, 12, 60).astype(float), rng.normal(size=60)
    fitted = fit_isotonic(judge, people)
    levels = np.unique(judge)
    means = [[people[(judge >= low) & (judge <= high)].mean() if high >= low else NAN for high in levels] for low in levels]
    expected = [max(min(means[j][k] for k in range(i, len(levels))) for j in range(i + 1)) for i in range(len(levels))]
    assert fitted(levels) == pytest.approx(expected)
    assert fitted([-9, 99]) == pytest.approx([expected[0], expected[-1]])
    assert np.isnan(fitted([NAN])).all() and (np.diff(fitted(np.linspace(-1, 13, 99))) >= 0).all()
    with pytest.raises(ValueError, match="no pair"):
        fit_isotonic([NAN], [1])


def test_recalibration_helps_on_prompts_it_has_not_seen():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, 1200)
    judge = np.clip(1 + (truth - 1) ** 2 / 4 + rng.normal(0, 0.2, 1200), 1, 5)  # bent: too strict in the middle
    people = np.clip(np.round(truth + rng.normal(0, 0.5, 1200)), 1, 5)
    prompts = np.arange(1200) // 4
    fit, held_out = prompts < 150, prompts >= 150
    found = recalibrate(
        (judge[fit], people[fit], prompts[fit]), (judge[held_out], people[held_out], prompts[held_out]), low=1, high=5
    )
    assert found.before.low > 0.3 and found.after.high < 0.2 and found.after.n == 600
    before = across_prompts(judge[held_out], people[held_out], prompts[held_out], resamples=20).value
    after = across_prompts(found.map(judge[held_out]), people[held_out], prompts[held_out], resamples=20).value
    assert after == pytest.approx(before, abs=0.03)  # a map that never turns an order around
    with pytest.raises(ValueError, match="1 prompts are in both parts, such as 'p'"):
        recalibrate(([1], [1], ["p"]), ([1], [1], ["p"]), low=1, high=5)


# -- raters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level, published):
    found = krippendorff_alpha(KRIPPENDORFF_2011, level=level)
    assert found.value == pytest.approx(published, abs=5e-4)
    assert (found.n, found.missing) == (11, 1) and found.low < found.value < found.high


def alpha_by_definition(table, level):
    """Observed over expected disagreement, pair by pair, from the definition."""
    units = [[value for value in row if not math.isnan(value)] for row in table]
    units = [unit for unit in units if len(unit) > 1]
    pooled = np.array([value for unit in units for value in unit])

    def distance(a, b):
        if level == "ordinal":
            low, high = min(a, b), max(a, b)
            return (np.sum((pooled >= low) & (pooled <= high)) - (np.sum(pooled == a) + np.sum(pooled == b)) / 2) ** 2
        return float(a != b) if level == "nominal" else (a - b) ** 2

    n = len(pooled)
    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a in unit for b in unit) / n
    return 1 - observed / (sum(distance(a, b) for a in pooled for b in pooled) / (n * (n - 1)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_its_definition(seed, level):
    rng = np.random.default_rng(seed)
    table = rng.choice([1, 2, 4, 5, NAN], (8, 3))
    table[0], table[1] = [1, 2, 5], [5, 5, 4]
    found = krippendorff_alpha(table, level=level, resamples=20)
    assert found.value == pytest.approx(alpha_by_definition(table, level))
    mixed = krippendorff_alpha(rng.permutation(rng.permutation(table).T).T, level=level, resamples=20)
    assert mixed.value == pytest.approx(found.value)


def test_alphas_ends():
    perfect = np.repeat(np.arange(1, 6.0)[:, None], 3, axis=1)
    opposed = np.tile([1.0, 5.0], (40, 1))
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha(perfect, level=level).value == 1
        assert krippendorff_alpha(opposed, level=level).value < 0
        chance = np.random.default_rng(0).integers(1, 6, (4000, 2)).astype(float)
        assert abs(krippendorff_alpha(chance, level=level, resamples=5).value) < 0.05
    assert math.isnan(krippendorff_alpha(np.full((9, 2), 3.0)).value)
    alone = krippendorff_alpha([[1, NAN], [NAN, 2]])
    assert math.isnan(alone.value) and (alone.n, alone.missing) == (0, 2)
    with pytest.raises(ValueError, match="table of pictures and raters"):
        krippendorff_alpha([1, 2, 3])


def test_ordinal_sees_order_and_not_distance():
    stretched = KRIPPENDORFF_2011**3
    assert krippendorff_alpha(stretched, level="ordinal").value == pytest.approx(
        krippendorff_alpha(KRIPPENDORFF_2011, level="ordinal").value
    )
    assert krippendorff_alpha(stretched, level="interval").value != pytest.approx(0.849, abs=0.01)


def test_pictures_of_one_prompt_are_drawn_together():
    """Repeating every picture eight times under its prompt adds no information, and only the interval by prompt knows it."""
    rng = np.random.default_rng(2)
    table = np.clip(rng.integers(1, 6, (30, 1)) + rng.integers(-1, 2, (30, 3)), 1, 5).astype(float)
    once, copies = krippendorff_alpha(table), np.repeat(table, 8, axis=0)
    by_prompt = krippendorff_alpha(copies, np.repeat(np.arange(30), 8))
    by_picture = krippendorff_alpha(copies)
    assert by_prompt.high - by_prompt.low == pytest.approx(once.high - once.low, rel=0.1)
    assert by_picture.high - by_picture.low < 0.5 * (once.high - once.low)


def test_a_table_of_raters():
    table = rater_table([{"ann": 4, "bo": 5}, {"cy": 1}])
    assert np.array_equal(table, [[4, 5, NAN], [NAN, NAN, 1]], equal_nan=True)
    assert rater_table([]).shape == (0, 0)
    assert krippendorff_alpha(rater_table([])).n == 0
