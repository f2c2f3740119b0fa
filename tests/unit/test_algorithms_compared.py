"""The experiment that gives each algorithm the same time: where an arm stood at a moment, pairing, arms that diverged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tastemaker.config import GRPOConfig, NFTConfig
from tastemaker.errors import UserMistake

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def experiments_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def point(step, seconds, right, n=10):
    from experiments.algorithms.__main__ import GUIDED, UNGUIDED
    from experiments.arms import Point

    exact = [1.0] * right + [0.0] * (n - right)
    return Point(step, seconds, [bool(one) for one in exact], [0.5] * n, {GUIDED: exact, UNGUIDED: [0.0] * n})


@pytest.mark.parametrize(("seconds", "share"), [(0.5, 0.25), (10, 0.4), (15, 0.5), (20, 0.6)])
def test_where_an_arm_stood_is_between_two_points(seconds, share):
    from experiments.algorithms.__main__ import GUIDED, at

    along = [point(1, 1, 3), point(2, 10, 4), point(3, 20, 6)]
    assert at(point(0, 0, 2), along, seconds, GUIDED).mean() == pytest.approx(share)


def test_nothing_is_said_about_time_that_was_not_trained():
    from experiments.algorithms.__main__ import GUIDED, at

    with pytest.raises(ValueError, match="trained for 10 s, asked for 11 s"):
        at(point(0, 0, 2), [point(1, 10, 3)], 11, GUIDED)


def test_arms_are_paired_by_seed_and_those_that_diverged_are_in_no_row():
    from experiments.algorithms.__main__ import GRPO, GUARD, GUIDED, NFT, Arm, Design, compare, page

    arms = [
        Arm(GRPO, 0, [point(30, 20, 4)]),
        Arm(NFT, 0, [point(60, 20, 8)]),
        Arm(GRPO, 1, [point(30, 8, 1)]),  # ended before the time was up
        Arm(NFT, 1, [point(60, 20, 6)]),
        Arm(GUARD, 0, []),
        Arm(GUARD, 1, []),
    ]
    found = compare(point(0, 0, 2), arms, 10)
    rows = {(row["arm"], row["against"], row["seed"]): row for row in found if row["drawn"] == GUIDED}
    assert rows[NFT, GRPO, None]["value"] == pytest.approx(0.2)  # seed 0 alone: 50% against 30%
    assert rows[NFT, "base", 1]["value"] == pytest.approx(0.2)
    assert rows[NFT, "base", None]["value"] == pytest.approx(np.mean([0.3, 0.2]))
    assert (GRPO, "base", 1) not in rows and not any(arm == GUARD for arm, _, _ in rows)
    assert "grpo 15, 30; grpo-guard 0, 0; nft 30, 30" in page(Design(2, 10.0), found, arms)


def test_only_what_the_algorithms_need_differs():
    from experiments.algorithms.__main__ import ARMS, Design

    configs = [Design().config(arm, 5, 1) for arm in ARMS]
    grpo, guard, nft = (config.algorithm for config in configs)
    assert isinstance(grpo, GRPOConfig) and isinstance(guard, GRPOConfig) and isinstance(nft, NFTConfig)
    assert guard.ratio_norm and not grpo.ratio_norm
    same = {"algorithm": grpo, "optimiser": configs[0].optimiser}
    assert all(config.model_copy(update=same) == configs[0] for config in configs)


def test_all_mistakes_of_a_design_at_once():
    from experiments.algorithms.__main__ import Design

    with pytest.raises(UserMistake) as mistake:
        Design(seeds=0, seconds=0.0)
    assert str(mistake.value).splitlines() == ["algorithms: seeds 0: at least 1", "algorithms: seconds 0: above 0"]
