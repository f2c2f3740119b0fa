"""Settings of `tastemaker train-reward`: every mistake at once, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tastemaker.config import FullPolicy, dump, parse
from tastemaker.config.reward_training import ChainOfThoughtObjective, JudgeLora, PairwiseObjective, RewardTrainConfig
from tastemaker.errors import UserMistake

GOOD = "name: taste\nbase: /models/vlm\nrubric: aesthetic.v1\ndata: {ratings: [ratings.jsonl]}\n"
PAGE = Path(__file__).parents[2] / "docs" / "reward-models.md"


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserMistake) as caught:
        parse(text, RewardTrainConfig, overrides, source="taste.yaml")
    return str(caught.value).splitlines()


def test_defaults_are_pointwise_on_a_merged_lora_and_parts_that_share_nothing():
    config = parse(GOOD, RewardTrainConfig)
    assert config.objective.kind == "pointwise" and config.policy == JudgeLora() and config.policy.merge
    assert (config.splits.train, config.splits.calibration, config.splits.test) == (0.8, 0.1, 0.1)
    assert config.splits.apart == ("prompt", "source", "generator")
    assert parse(dump(config), RewardTrainConfig) == config


def test_variants_are_chosen_by_a_word():
    config = parse(GOOD, RewardTrainConfig, ["objective={kind: chain_of_thought, scores: soft_label}", "policy={kind: full}"])
    assert isinstance(config.objective, ChainOfThoughtObjective) and config.objective.scores == "soft_label"
    assert isinstance(config.policy, FullPolicy)
    votes = GOOD.replace("ratings: [ratings.jsonl]", "votes: [votes.jsonl]")
    assert isinstance(parse(votes, RewardTrainConfig, ["objective={kind: pairwise}"]).objective, PairwiseObjective)


def test_every_mistake_is_listed_at_once():
    lines = mistakes(
        "name: taste\nrubrik: aesthetic.v1\nrubric: aesthetic.v1\ndata: {ratings: [a.jsonl, a.jsonl], skip_bad: -1}\n"
        "policy: {kind: lora, rank: 0}\noptimiser: {batch_size: 8, micro_batch: 16}\nsplits: {train: 0.9, apart: [source]}\n"
        "budget: {epochs: 0}\n",
        "evaluation.bins=1",
    )
    told = {line.split()[1] if line.startswith("taste") else "override": line for line in lines}
    assert set(told) == {
        *("base:", "rubrik:", "data.ratings:", "data.skip_bad:", "policy.rank:", "optimiser.micro_batch:"),
        *("splits.train:", "splits.apart:", "budget.epochs:", "override"),
    }
    assert "did you mean `rubric`?" in told["rubrik:"] and "'a.jsonl' is named 2 times" in told["data.ratings:"]
    assert "the three shares add up to 1.1, make it 1" in told["splits.train:"]


@pytest.mark.parametrize(
    "data, objective, says",
    [
        ("{}", "{kind: pairwise}", "names neither ratings nor votes, give at least one file"),
        ("{votes: [v.jsonl]}", "{kind: pointwise}", "pointwise learns from ratings, and data.ratings is empty"),
        ("{votes: [v.jsonl], dimension: light}", "{kind: pairwise}", "votes have no dimension"),
        ("{ratings: [r.jsonl]}", "{kind: pointwise, rationale_weight: 1}", "unknown key"),
        ("{ratings: [r.jsonl]}", "{kind: pairwize}", "did you mean pairwise?"),
        ("{ratings: [r.jsonl]}", "{kind: chain_of_thought, stop: ' '}", "must match"),
    ],
)
def test_rules_between_settings(data, objective, says):
    lines = mistakes(GOOD, f"data={data}", f"objective={objective}")
    assert len(lines) == 1 and says in lines[0]


def test_the_settings_of_the_page_are_good():
    shown = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown and all(parse(text, RewardTrainConfig).name == "taste" for text in shown)
