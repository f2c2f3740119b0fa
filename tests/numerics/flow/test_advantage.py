"""Advantages against a loop in numpy that follows the words of the specification, group by group."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.flow.advantage import composite, group_advantages

NAN = float("nan")


def by_loop(values, weights, floors, group, clip=None, min_range=0.0, ranges=None):
    """Eq. 6 by hand: (advantages, kept, groups without signal)."""
    num_samples, num_rewards = values.shape
    weights = np.broadcast_to(weights, values.shape)
    advantages, kept = np.zeros(num_samples), np.zeros(num_samples, bool)
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        complete = [i for i in members if all(weights[i, k] == 0 or not math.isnan(values[i, k]) for k in range(num_rewards))]
        if min_range > 0:
            sums = [
                sum(
                    weights[i, k] * (values[i, k] - ranges[k][0]) / (ranges[k][1] - ranges[k][0])
                    for k in range(num_rewards)
                    if weights[i, k]
                )
                for i in complete
            ]
            if not sums or max(sums) - min(sums) <= min_range + 1e-6:
                continue
        for i in members:
            has = [k for k in range(num_rewards) if not math.isnan(values[i, k])]
            total = sum(weights[i, k] for k in has)
            for k in has:
                scores = [values[j, k] for j in members if not math.isnan(values[j, k])]
                if len(scores) < 2 or max(scores) == min(scores) or weights[i, k] == 0:
                    continue
                kept[i] = True
                advantages[i] += weights[i, k] / total * (values[i, k] - np.mean(scores)) / max(np.std(scores), floors[k])
        signals = [i for i in members if kept[i]]
        if len(complete) < len(members) and signals:
            mean = np.mean([advantages[i] for i in signals])
            for i in signals:
                advantages[i] -= mean
    silent = sum(not kept[group == g].any() for g in np.unique(group))
    return (advantages if clip is None else np.clip(advantages, -clip, clip)), kept, silent


score = st.one_of(st.just(NAN), st.sampled_from([1.0, 1.0, 2.0, 5.0]), st.floats(1, 5, width=32))


@st.composite
def batches(draw):
    num_samples, num_rewards = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    values = [[draw(score) for _ in range(num_rewards)] for _ in range(num_samples)]
    rows = num_samples if draw(st.booleans()) else 1
    raw = np.array([[draw(st.sampled_from([0.0, 1.0, 3.0])) for _ in range(num_rewards)] for _ in range(rows)])
    raw[raw.sum(1) == 0] = 1.0
    weights = raw / raw.sum(1, keepdims=True)
    floors = [draw(st.sampled_from([0.0, 0.3])) for _ in range(num_rewards)]
    group = [draw(st.integers(0, 3)) * 7 for _ in range(num_samples)]
    return np.array(values), weights if rows > 1 else weights[0], np.array(floors), np.array(group)


@settings(max_examples=120, deadline=None)
@given(batches(), st.sampled_from([None, 0.8]), st.sampled_from([0.0, 0.2]))
def test_equals_the_loop(batch, clip, min_range):
    values, weights, floors, group = batch
    ranges = [[1.0, 5.0]] * values.shape[1]
    expected, kept, silent = by_loop(values, weights, floors, group, clip, min_range, ranges)
    ours = group_advantages(
        torch.tensor(values), torch.tensor(weights), torch.tensor(floors), torch.tensor(group),
        clip=clip, min_range=min_range, ranges_R2=torch.tensor(ranges),
    )  # fmt: skip
    np.testing.assert_allclose(ours.advantages_B.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert ours.kept_B.tolist() == kept.tolist()
    assert ours.groups_without_signal == silent
    assert (ours.advantages_B[~ours.kept_B] == 0).all() and ours.advantages_B.isfinite().all()


def one_reward(scores, floor=0.0, **options):
    values = torch.tensor(scores, dtype=torch.float64)[:, None]
    group = torch.zeros(len(scores), dtype=torch.long)
    return group_advantages(values, torch.ones(1), torch.tensor([floor]), group, **options)


def test_one_zero_among_eight():
    """The classic binary reward: the outlier is sqrt(7) population standard deviations out, the others 1/sqrt(7)."""
    ours = one_reward([1.0] * 7 + [0.0])
    torch.testing.assert_close(ours.advantages_B, torch.tensor([7**-0.5] * 7 + [-(7**0.5)]))
    assert ours.kept_B.all() and ours.groups_without_signal == 0
    assert float(ours.means_PR) == pytest.approx(0.875) and float(ours.stds_PR) == pytest.approx(math.sqrt(7) / 8)
    assert float(one_reward([1.0] * 7 + [0.0], clip=2.0).advantages_B.min()) == -2.0


@pytest.mark.parametrize("value", [0.1, 1 / 3, 4.7, 1e8])
@pytest.mark.parametrize("size", [2, 3, 7, 24])
def test_equal_scores_give_exactly_zero_even_without_a_floor(value, size):
    """The mean of seven copies of 0.1 is not 0.1; without care its rounding becomes advantages of +-1."""
    ours = one_reward([value] * size)
    assert ours.advantages_B.eq(0).all() and not ours.kept_B.any() and ours.groups_without_signal == 1


def test_a_near_tie_is_held_by_the_floor():
    scores = [3.0, 3.0, 3.0, 3.001]
    assert one_reward(scores).advantages_B.abs().max() > 1
    assert one_reward(scores, floor=0.2).advantages_B.abs().max() < 0.01


def test_reward_range_does_not_matter_and_small_spreads_keep_their_digits():
    base = torch.tensor([0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    small, large = one_reward((1000 + 1e-2 * base).tolist()), one_reward((500 * base - 3).tolist())
    torch.testing.assert_close(small.advantages_B, large.advantages_B, rtol=0, atol=1e-6)
    torch.testing.assert_close(large.advantages_B.double().sum(), torch.tensor(0.0, dtype=torch.float64), atol=1e-6, rtol=0)


def test_missing_scores():
    values = torch.tensor([[1.0, 5.0], [3.0, NAN], [NAN, 1.0], [NAN, NAN]])
    ours = group_advantages(values, torch.tensor([0.75, 0.25]), torch.zeros(2), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(ours.advantages_B, torch.tensor([-0.5 + 1 / 6, 1.0 + 1 / 6, -1.0 + 1 / 6, 0.0]))
    assert ours.kept_B.tolist() == [True, True, True, False]
    assert ours.means_PR.tolist() == [[2.0, 3.0]]


def test_a_reward_with_one_survivor_contributes_zero_and_keeps_its_weight():
    values = torch.tensor([[1.0, 5.0], [3.0, NAN]])
    ours = group_advantages(values, torch.tensor([0.5, 0.5]), torch.zeros(2), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(ours.advantages_B, torch.tensor([-0.75, 0.75]))


def test_what_a_group_has_in_common_is_no_preference_where_scores_are_missing():
    """Weights that are scaled up for some samples no longer sum to 0 over the group: all of them would be pushed one way."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(8, 3, generator=generator).double()
    values[0, 0] = values[3, 1] = values[4, 0] = NAN
    values[5] = NAN
    weights, group = torch.tensor([0.6, 0.3, 0.1]), torch.zeros(8, dtype=torch.long)
    ours = group_advantages(values, weights, torch.zeros(3), group)
    assert abs(float(ours.advantages_B.double().sum())) < 1e-6 and float(ours.advantages_B[5]) == 0
    assert ours.kept_B.tolist() == [True] * 5 + [False] + [True] * 2
    other = torch.cat([values, torch.randn(8, 3, generator=generator)])  # of a group that lacks nothing no digit changes
    both = group_advantages(other, weights, torch.zeros(3), torch.cat([group, group + 1]))
    alone = group_advantages(other[8:], weights, torch.zeros(3), group)
    assert torch.equal(both.advantages_B[8:], alone.advantages_B)


def test_a_sample_whose_only_score_has_no_weight_has_no_signal():
    values = torch.tensor([[1.0, 5.0], [3.0, 4.0], [NAN, 1.0]])
    ours = group_advantages(values, torch.tensor([1.0, 0.0]), torch.zeros(2), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(ours.advantages_B, torch.tensor([-1.0, 1.0, 0.0]))
    assert ours.kept_B.tolist() == [True, True, False]


def test_a_group_with_no_score_at_all_is_counted_and_leaves_the_others_alone():
    values = torch.tensor([[1.0], [3.0], [NAN], [NAN]])
    ours = group_advantages(values, torch.ones(1), torch.zeros(1), torch.tensor([9, 9, 4, 4]))
    assert ours.advantages_B.tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert ours.groups_without_signal == 1
    assert ours.means_PR[0].isnan().all() and float(ours.means_PR[1]) == 2.0


def test_small_batches():
    lone = one_reward([3.0])
    assert lone.advantages_B.tolist() == [0.0] and lone.groups_without_signal == 1
    empty = group_advantages(torch.zeros(0, 2), torch.tensor([0.5, 0.5]), torch.zeros(2), torch.zeros(0, dtype=torch.long))
    assert empty.advantages_B.shape == (0,) and empty.groups_without_signal == 0


def test_groups_may_be_interleaved():
    values = torch.tensor([[1.0], [10.0], [3.0], [30.0]])
    ours = group_advantages(values, torch.ones(1), torch.zeros(1), torch.tensor([0, 1, 0, 1]))
    assert ours.advantages_B.tolist() == [-1.0, -1.0, 1.0, 1.0]


def test_a_group_below_the_range_threshold_is_dropped_whole():
    values = torch.tensor([[3.0, 0.5], [3.2, 0.5], [1.0, 0.0], [5.0, 1.0]])
    group, ranges = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 5.0], [0.0, 1.0]])
    ours = group_advantages(values, torch.tensor([0.5, 0.5]), torch.zeros(2), group, min_range=0.1, ranges_R2=ranges)
    assert ours.advantages_B.tolist() == [0.0, 0.0, -1.0, 1.0] and ours.kept_B.tolist() == [False, False, True, True]
    assert ours.groups_without_signal == 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (0.2, 0.3), (0.3, 0.4), (0.9, 1.0)])
def test_a_group_exactly_at_the_threshold_is_dropped(low, high):
    """Of scores in float32, in which some of these steps are above 0.1 and some below."""

    def kept(*scores: float) -> bool:
        values, group = torch.tensor(scores)[:, None], torch.zeros(2, dtype=torch.long)
        limit = {"min_range": 0.1, "ranges_R2": torch.tensor([[0.0, 1.0]])}
        return bool(group_advantages(values, torch.ones(1), torch.zeros(1), group, **limit).kept_B.all())

    assert not kept(low, high) and kept(low - 1e-5, high)


def test_composite_is_never_computed_from_a_part():
    values, ranges = torch.tensor([[3.0, 0.5], [NAN, 1.0]]), torch.tensor([[1.0, 5.0], [0.0, 1.0]])
    assert composite(values, torch.tensor([0.5, 0.5]), ranges)[0] == 0.5
    assert composite(values, torch.tensor([0.5, 0.5]), ranges)[1].isnan()
    assert composite(values, torch.tensor([0.0, 1.0]), ranges)[1] == 1.0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"weights_R_or_BR": torch.tensor([0.5, 0.4])}, "sum to 1"),
        ({"weights_R_or_BR": torch.tensor([1.5, -0.5])}, "at least 0"),
        ({"weights_R_or_BR": torch.tensor([NAN, 1.0])}, "sum to 1"),
        ({"weights_R_or_BR": torch.tensor([1.0])}, "expected"),
        ({"floors_R": torch.tensor([-1.0, 0.0])}, "at least 0"),
        ({"floors_R": torch.tensor([0.1])}, "one per reward"),
        ({"group_B": torch.zeros(2, dtype=torch.long)}, "one id per sample"),
        ({"values_BR": torch.tensor([[1.0, float("inf")]] * 3)}, "infinite"),
        ({"values_BR": torch.zeros(3)}, "expected"),
        ({"clip": 0.0}, "clip"),
        ({"min_range": 0.1}, "ranges_R2"),
        ({"min_range": 0.1, "ranges_R2": torch.tensor([[1.0, 1.0], [0.0, 1.0]])}, "low < high"),
        ({"min_range": 0.1, "ranges_R2": torch.tensor([1.0, 5.0])}, "low and high"),
    ],
)
def test_wrong_inputs_are_refused(change, words):
    inputs = {
        "values_BR": torch.rand(3, 2),
        "weights_R_or_BR": torch.tensor([0.5, 0.5]),
        "floors_R": torch.zeros(2),
        "group_B": torch.zeros(3, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=words):
        group_advantages(**(inputs | change))
