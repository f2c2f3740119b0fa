"""Pointwise against pairwise: both arms cost the same, ask the same simulated raters, and differences are paired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tastemaker.data.ratings import read_ratings
from tastemaker.errors import UserMistake
from tastemaker.evaluation.agreement import across_prompts, pair_agreement, within_prompts
from tastemaker.miniature.raters import panel
from tastemaker.miniature.raters.collect import RATINGS, collect
from tastemaker.training.reward_data import StoredQuestion

ROOT = Path(__file__).parents[2]
RATERS = panel.panel(9, 0)


@pytest.fixture(autouse=True)
def experiments_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def pictured(truths, prompt="p", dimension="alignment"):
    from experiments.pointwise_vs_pairwise.judgements import Pictured

    return [
        Pictured(
            StoredQuestion(f"{prompt}{n}", prompt, f"{n}.png"), f"{prompt}{n}", prompt, "general", dimension, {dimension: truth}
        )
        for n, truth in enumerate(truths)
    ]


@pytest.mark.parametrize("pictures, raters, votes", [(4, 3, 2), (3, 3, 3), (4, 6, 4), (7, 3, 1)])
def test_both_arms_cost_the_same(pictures, raters, votes):
    from experiments.pointwise_vs_pairwise.design import PAIRWISE, POINTWISE, Design, cost
    from experiments.pointwise_vs_pairwise.judgements import judged

    design = Design(pictures=pictures, raters=raters, steps=10_000)
    rows = [one for prompt in "ab" for one in pictured(np.linspace(1, 5, pictures), prompt)]
    said = {arm: judged(arm, rows, design, seed=0) for arm in (POINTWISE, PAIRWISE)}
    costs = [cost(one.examples, one.judgements, design.plan(arm, 0), "alignment") for arm, one in said.items()]
    assert costs[0] == costs[1]
    assert costs[0].judgements == 2 * pictures * raters and costs[0].passes == 10_000 * 16
    assert design.votes_per_pair == votes == len(said[PAIRWISE].examples) / (2 * pictures * (pictures - 1) / 2)


def test_every_vote_is_seen():
    from experiments.pointwise_vs_pairwise.design import Design

    assert Design().least_steps == 2 * (300 + 200) * 4 * 3 / 16
    with pytest.raises(UserMistake, match="steps 749: at least 750"):
        Design(steps=749)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"raters": 4}, "must be whole"),
        ({"batch": 5}, "even"),
        ({"seeds": 0}, "at least 1"),
        ({"severity": -1.0}, "0 or above"),
    ],
)
def test_a_bad_design_is_one_line(settings, told):
    from experiments.pointwise_vs_pairwise.design import Design

    with pytest.raises(UserMistake, match=told) as caught:
        Design(**settings)
    assert "\n" not in str(caught.value)


def test_the_raters_are_those_of_the_sitting_and_severity_moves_no_vote(tmp_path):
    from experiments.pointwise_vs_pairwise.design import PAIRWISE, POINTWISE, QUICK, SEVERE
    from experiments.pointwise_vs_pairwise.judgements import judged, read_pictures

    design = replace(QUICK, t2i=1, edits=1, severity=8.0)
    collect(tmp_path, design.training)
    rows = read_ratings(tmp_path / RATINGS)
    said = [one for found in read_pictures(tmp_path).values() for one in judged(POINTWISE, found, design, 0).examples]
    stored = {row.id: row.mean for row in rows}
    assert {one.question.id: one.score for one in said} == {key: stored[key] for key in (one.question.id for one in said)}
    (found,) = (read_pictures(tmp_path)["alignment"],)
    votes = [[one.choice for one in judged(PAIRWISE, found, replace(design, severity=s), 0).examples] for s in (1.0, 8.0)]
    scores = [[one.score for one in judged(arm, found, design, 0).examples] for arm in (POINTWISE, SEVERE)]
    assert votes[0] == votes[1] and scores[0] != scores[1]


def test_votes_say_which_is_better_and_tie_within_the_margin():
    from experiments.pointwise_vs_pairwise.judgements import votes

    apart, alike = (votes(pictured(truths), RATERS, 9, seed=0) for truths in ([5.0, 1.0], [3.0, 3.0]))
    assert [one.choice for one in apart.examples] == [1.0] * 9 and apart.judgements == 9
    assert np.mean([one.choice == 0.5 for one in alike.examples]) > 0.5


def test_measures_are_those_of_the_house_and_differences_are_paired():
    from experiments.pointwise_vs_pairwise.arms import Arm
    from experiments.pointwise_vs_pairwise.comparison import compare
    from experiments.pointwise_vs_pairwise.design import PAIRWISE, POINTWISE

    rng = np.random.default_rng(0)
    rows = [one for prompt in range(12) for one in pictured(rng.uniform(1, 5, 5), f"p{prompt}")]
    truth, prompts = np.array([one.truth for one in rows]), [one.prompt for one in rows]

    def arm(name, seed, noise):
        scores = {"alignment": [*(truth + noise * rng.normal(size=len(truth)))]}
        return Arm(name, seed, scores, scores, {}, {}, 1.0)

    arms = [arm(name, seed, noise) for seed in (0, 1) for name, noise in ((PAIRWISE, 2.0), (POINTWISE, 0.5))]
    found = {(row.measure, row.what, row.seed): row.found for row in compare(arms, {"alignment": rows}, resamples=200)}
    scores = arms[0].shown["alignment"]
    pairs = [(a, b) for a in range(60) for b in range(a + 1, 60) if prompts[a] == prompts[b]]
    margins = [np.array([values[a] - values[b] for a, b in pairs]) for values in (scores, truth)]
    expected = {
        "Spearman within prompts": within_prompts(scores, truth, prompts),
        "Spearman across prompts": across_prompts(scores, truth, prompts),
        "pairs right in both orders": pair_agreement(
            margins[0], margins[0], margins[1], [prompts[a] for a, _ in pairs], resamples=200
        ).both,
    }
    for measure, one in expected.items():
        assert found[measure, (PAIRWISE,), 0].value == pytest.approx(one.value)
        assert found[measure, (PAIRWISE,), 0].low == pytest.approx(one.low, abs=0.03)
        pooled = found[measure, (POINTWISE, PAIRWISE), None]
        seeds = [found[measure, (POINTWISE,), seed].value - found[measure, (PAIRWISE,), seed].value for seed in (0, 1)]
        assert pooled.value == pytest.approx(np.mean(seeds)) and 0 < pooled.low < pooled.value < pooled.high
