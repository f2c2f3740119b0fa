"""Experiments that train the miniature: time to a truth, differences by seed and category, and a folder holds one design."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tastemaker.errors import UserMistake
from tastemaker.types import Prompt

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def experiments_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def point(step, right, seconds=None, n=10):
    from experiments.arms import Point

    return Point(step, 10.0 * step if seconds is None else seconds, [True] * right + [False] * (n - right), [0.5] * n)


@pytest.mark.parametrize(
    ("right", "target", "seconds"),
    [
        ([4, 6], 0.5, 15.0),
        ([4, 6], 0.4, 10.0),
        ([4, 6], 0.3, 5.0),
        ([4, 6], 0.7, math.nan),
        ([1, 6], 0.3, 14.0),
        ([4, 3, 8], 0.8, 30.0),
        ([1, 6], 0.2, 0.0),
    ],
)
def test_seconds_to_a_truth(right, target, seconds):
    from experiments.curation.__main__ import seconds_to

    found = seconds_to(target, point(0, 2), [point(step, one) for step, one in enumerate(right, start=1)])
    assert found == pytest.approx(seconds, nan_ok=True)


def test_the_curation_counts_for_its_arm_alone_and_differences_are_paired():
    from experiments.curation.__main__ import Run, differences, times

    runs = [Run({"all": [point(1, 4)], "curated": [point(1, 6)], "random": [point(1, 2)]}, 7.0, 5) for _ in range(2)]
    rows = {(row["seed"], row["arm"]): row for row in times(point(0, 2), runs)}
    assert rows[0, "curated"]["seconds"] == pytest.approx(5.0) and rows[0, "curated"]["curation"] == 7.0
    assert rows[1, "all"]["seconds"] == pytest.approx(10.0) and rows[1, "all"]["curation"] == 0
    assert math.isnan(rows[0, "random"]["seconds"])
    found = {(row["what"], row["seed"]): row for row in differences(runs)}
    assert found["curated − all", None]["value"] == pytest.approx(0.2) and found["curated − all", None]["n"] == 10
    assert found["random − all", 1]["value"] == pytest.approx(-0.2)


def test_categories_are_compared_within_themselves():
    from experiments.arms import Point
    from experiments.categories.__main__ import BY_CATEGORY, UNIFORM, compare

    held_out = [Prompt(str(n), "x", ("portrait", "general")[n % 2]) for n in range(20)]
    portraits = [n % 2 == 0 for n in range(20)]
    base = Point(0, 0, [False] * 20, [0.1] * 20)
    run = {UNIFORM: Point(1, 1, portraits, [0.1] * 20), BY_CATEGORY: Point(1, 1, [True] * 20, [0.1 * n for n in range(20)])}
    rows = {(row["measure"], row["what"], row["category"], row["seed"]): row for row in compare(held_out, base, [run, run])}
    gain = rows["exact", f"{BY_CATEGORY} − {UNIFORM}", "general", None]
    assert (gain["value"], gain["n"]) == (1.0, 10)
    assert rows["exact", f"{BY_CATEGORY} − {UNIFORM}", "portrait", 0]["value"] == 0.0
    assert rows["exact", f"{UNIFORM} − base", "all", None]["value"] == 0.5
    expected = np.mean([0.1 * n for n in range(20)]) - 0.1
    assert rows["quality", f"{BY_CATEGORY} − {UNIFORM}", "all", 1]["value"] == pytest.approx(expected)


def test_a_folder_holds_one_design_and_takes_more_seeds(tmp_path):
    from experiments.arms import claim
    from experiments.curation.__main__ import QUICK, Design

    claim(tmp_path, QUICK)
    claim(tmp_path, Design(**{**vars(QUICK), "seeds": 5}))
    with pytest.raises(UserMistake, match=r"another design.*keep 0.5"):
        claim(tmp_path, Design(**{**vars(QUICK), "keep": 0.3}))


def test_a_lost_point_is_not_measured_on_later_weights(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import experiments.arms as arms

    bench = SimpleNamespace(folder=tmp_path, say=lambda text: None, pool=None, rewards={}, open=lambda config: (None, None))
    monkeypatch.setattr(arms, "run_training", lambda *args, **kwargs: SimpleNamespace(step=4))
    monkeypatch.setattr(arms.task, "rewards", lambda pool: {})
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserMistake, match="point 2 is missing, and the weights are those of step 4"):
        arms.run_arm(tmp_path, arms.t2i_config("budget.max_steps=4"), [], bench, 2)
    assert not list(tmp_path.glob("point-*"))


def test_weights_by_category_are_a_config_that_is_right():
    from experiments.arms import t2i_config
    from experiments.categories.__main__ import WEIGHTS

    config = t2i_config(WEIGHTS)
    mean = np.mean([weights["facts"] for weights in config.categories.values()])
    assert set(config.categories) == {"general", "portrait", "landscape", "typography"} and mean == pytest.approx(0.9)
