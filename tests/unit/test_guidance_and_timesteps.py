"""Experiments on guidance modes and trained timesteps: parts of the held-out prompts, pairing, equal proxy, lost arms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import UserMistake
from tastemaker.types import Prompt

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def experiments_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def prompt(number, category, style="plain"):
    return Prompt(str(number), "x", category, truth={"description": {"style": style}})


HELD_OUT = [
    *(prompt(n, "general") for n in range(10)),
    *(prompt(n, "landscape") for n in range(10, 20)),
    *(prompt(n, "landscape", "sepia") for n in range(20, 30)),
]


def arm(mode, seed, right, *, norms=(1.0,), speed=4.0, also=None):
    """Of HELD_OUT, the first `right` of each ten are exact with guidance, and none without."""
    from experiments.arms import Point
    from experiments.hybrid_cfg.report import GUIDED, STATISTICS, UNGUIDED, Arm

    exact = [float(n % 10 < right) for n in range(30)]
    found = {f"{GUIDED}/exact": exact, f"{UNGUIDED}/exact": [0.0] * 30}
    found |= {f"{guidance}/{name}": [0.5] * 30 for guidance in (GUIDED, UNGUIDED) for name in STATISTICS}
    found |= {f"{guidance}/style": [1.0] * 30 for guidance in (GUIDED, UNGUIDED)} | (also or {})
    point = Point(3, 1.0, [bool(one) for one in exact], [0.5] * 30, found, speed)
    history = [{"step": k, "grad_norm": norm, "reward/facts": 0.5, "updates_skipped": 0.0} for k, norm in enumerate(norms, 1)]
    return Arm(mode, seed, [point], history, 0)


def test_parts_of_the_held_out_prompts_have_nothing_in_common():
    from experiments.hybrid_cfg.design import slices

    found = slices(HELD_OUT, ("general",))
    assert found == {"all": [*range(30)], "trained on": [*range(10)], "knowledge": [*range(10, 20)], "style": [*range(20, 30)]}
    assert slices(HELD_OUT, ("general", "landscape"))["knowledge"] == []


def test_each_mode_is_compared_with_base_and_hybrid_within_each_part():
    from experiments.hybrid_cfg.report import GUIDED, compare

    lost = [float(n < 10) for n in range(30)]  # draws what it was trained on, and nothing else any more
    base = arm("base", 0, 4)
    arms = [a for seed in (0, 1) for a in (arm("hybrid", seed, 6), arm("none", seed, 0, also={f"{GUIDED}/exact": lost}))]
    rows = {
        (r["guidance"], r["measure"], r["part"], r["arm"], r["against"], r["seed"]): r
        for r in compare(HELD_OUT, ("general",), base, arms)
    }
    assert rows[GUIDED, "exact", "trained on", "none", "base", None]["value"] == pytest.approx(0.6)
    assert rows[GUIDED, "exact", "knowledge", "none", "base", 1]["value"] == pytest.approx(-0.4)
    assert rows[GUIDED, "exact", "style", "none", "hybrid", None]["value"] == pytest.approx(-0.6)
    assert rows[GUIDED, "exact", "all", "hybrid", "base", 0]["n"] == 30
    assert not any(key[3] == key[4] for key in rows)
    assert rows["unguided", "exact", "all", "hybrid", "base", None]["value"] == 0


def test_an_arm_that_diverged_is_told_and_is_in_no_difference():
    from experiments.hybrid_cfg.design import Design
    from experiments.hybrid_cfg.report import charts, compare, page, stability

    gone = replace(arm("both", 1, 0, norms=(1.0, 50.0)), points=[], incidents=3)
    arms = [arm("hybrid", 0, 5), arm("both", 0, 5, norms=(1.0, 3.0)), arm("hybrid", 1, 5), gone]
    base = arm("base", 0, 5)
    rows, steady = compare(HELD_OUT, ("general",), base, arms), stability(arms)
    assert {row["seed"] for row in rows if row["arm"] == "both"} == {0, None}
    told = next(row for row in steady if row["arm"] == "both" and row["seed"] == 1)
    assert (told["finished"], told["max_grad_norm"], told["not_finite"]) == (False, 50.0, 3)
    assert math.isnan(told["images_per_second"])
    text = page(Design(trained="general"), rows, steady)
    assert "| both | 1 of 2 | 26.5 [3, 50] |" in text
    assert charts(HELD_OUT, ("general",), base, arms).startswith(b"\x89PNG")


def test_the_last_gradient_norm_is_a_mean_and_the_largest_is_not():
    from experiments.hybrid_cfg.report import stability

    (found,) = stability([arm("both", 0, 1, norms=(9.0, 100.0, 1.0, 2.0, 3.0, 4.0, 5.0))])
    assert (found["max_grad_norm"], found["last_grad_norm"], found["steps"]) == (100.0, 3.0, 7)


def test_modes_differ_in_guidance_alone_and_train_on_what_was_asked_for():
    from experiments.hybrid_cfg.design import MODES, Design

    for algorithm in ("nft", "grpo"):
        design = Design(algorithm=algorithm)
        configs = {mode: design.config(mode, 1, 1) for mode in MODES}
        assert [configs[mode].rollout.guidance for mode in MODES] == [2.0, 2.0, 1.0, 2.0]
        assert {config.evaluation.guidance for config in configs.values()} == {2.0}
        assert {config.rollout.unguided_every for config in configs.values()} == {None}
        assert {config.algorithm.name for config in configs.values()} == {algorithm}
        assert [configs[mode].algorithm.guidance_mode for mode in MODES] == list(MODES)
    prompts = Design(pool=300).training_prompts(0)
    assert {p.category for p in prompts} == {"general", "portrait"}
    assert {p.truth["description"]["style"] for p in prompts} == {"plain"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"algorithm": "ppo"}, "one of nft, grpo"),
        ({"guidance": 1.0}, "all modes are the same"),
        ({"trained": "general cats"}, "some but not all"),
        ({"trained": "general portrait landscape typography"}, "some but not all"),
        ({"steps": 7}, "a multiple of every = 20"),
    ],
)
def test_a_guidance_design_that_cannot_be_is_one_line(settings, told):
    from experiments.hybrid_cfg.design import Design

    with pytest.raises(UserMistake, match=told) as caught:
        Design(**settings)
    assert "\n" not in str(caught.value)


def walk(noise, seed, along, algorithm="grpo"):
    """Points of (saturation, number of ten prompts that are right); the proxy is half of the saturation plus 0.25."""
    from experiments.arms import Point
    from experiments.timesteps.report import Arm

    points = [
        Point(10 * k, 1.0, [n < right for n in range(10)], [0.5] * 10, {"edits": [1.0] * 4, "saturation": [loud] * 10})
        for k, (loud, right) in enumerate(along, 1)
    ]
    return Arm(algorithm, noise, seed, points)


def test_truth_is_compared_where_as_much_proxy_was_bought():
    from experiments.timesteps.design import ALL, HIGH, LOW
    from experiments.timesteps.report import rows_of

    base = walk("base", 0, [(0.2, 6)]).points[0]
    arms = [
        walk(ALL, 0, [(0.6, 2), (0.8, 0)]),  # passes the gain of the slowest, 0.1, halfway to its first point
        walk(HIGH, 0, [(0.3, 6), (0.4, 5)]),
        walk(LOW, 0, [(0.4, 3), (0.5, 3)]),
    ]
    rows = {(r["what"], r["measure"], r["at"], r["seed"]): r for r in rows_of(base, arms)}
    assert rows["grpo, all noise − base", "exact", 20, None]["value"] == pytest.approx(-0.6)
    equal = {name: rows[f"grpo, {name} noise − base", "exact", "equal proxy", None] for name in ("all", "high", "low")}
    assert equal["all"]["gain"] == pytest.approx(0.1)
    assert [equal[name]["value"] for name in equal] == pytest.approx([-0.2, -0.1, -0.3])
    assert rows["grpo, all noise − high noise", "proxy", "end", 0]["value"] == pytest.approx(0.2)
    assert rows["grpo, low noise − high noise", "edits", "end", None]["n"] == 4


def test_an_arm_that_bought_next_to_nothing_is_no_yardstick_for_the_others():
    from experiments.timesteps.design import ALL, HIGH, LOW
    from experiments.timesteps.report import rows_of

    base = walk("base", 0, [(0.2, 6)]).points[0]
    arms = [walk(ALL, 0, [(0.4, 4)]), walk(HIGH, 0, [(0.6, 2)]), walk(LOW, 0, [(0.22, 1)])]
    equal = {
        row["what"]: row["value"] for row in rows_of(base, arms) if row["at"] == "equal proxy" and row["measure"] == "exact"
    }
    assert equal == {"grpo, all noise − base": pytest.approx(-0.2), "grpo, high noise − base": pytest.approx(-0.2)}
    alone = [walk(ALL, 0, [(0.18, 6)]), arms[1], arms[2]]
    assert not any(row["at"] == "equal proxy" for row in rows_of(base, alone))


def test_a_proxy_that_fell_has_no_equal_place_and_nothing_is_made_up():
    from experiments.timesteps.design import ALL, HIGH, Design
    from experiments.timesteps.report import charts, page, rows_of

    base = walk("base", 0, [(0.5, 6)]).points[0]
    arms = [walk(ALL, 0, [(0.6, 6)]), walk(HIGH, 0, [(0.4, 6)]), replace(walk(ALL, 1, [(0.6, 6)]), points=[])]
    rows = rows_of(base, arms)
    assert not any(row["at"] == "equal proxy" for row in rows)
    assert {row["seed"] for row in rows} == {0, None}
    assert "After 10 steps: arm − base" in page(Design(), rows)
    assert charts(base, arms).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gains", "gain", "place"),
    [([0, 1, 2], 0.5, 0.5), ([0, 1, 2], 2, 2.0), ([0, -1, 1], 0.5, 1.75), ([0, 3, 1, 4], 2, 2 / 3), ([0, 1], 1.0001, 1.0)],
)
def test_where_a_gain_is_first_reached(gains, gain, place):
    from experiments.timesteps.report import crossing

    assert crossing(gains, gain) == pytest.approx(place)


def test_arms_differ_in_the_trained_noise_alone():
    from experiments.timesteps.design import ALL, GRPO, HIGH, LOW, NFT, Design

    design = Design()
    windows = {}
    for noise in (ALL, HIGH, LOW):
        config = design.config(GRPO, noise, 0, 1)
        windows[noise] = (config.rollout.window_start, config.rollout.window_size)
        assert "facts" not in {reward.name for reward in config.rewards}
        assert config.optimiser.learning_rate == design.grpo_rate
    assert windows == {ALL: (0, 7), HIGH: (0, 3), LOW: (4, 3)}
    sigmas = {noise: design.config(NFT, noise, 0, 1).algorithm for noise in (HIGH, LOW)}
    assert sigmas[LOW].sigma_high < sigmas[HIGH].sigma_low
    same = [design.config(NFT, noise, 0, 1).model_dump(exclude={"algorithm"}) for noise in (ALL, HIGH)]
    assert same[0] == same[1]
    for settings, told in (({"algorithms": "ppo"}, "of grpo nft"), ({"window": 4}, "at most half"), ({"every": 7}, "multiple")):
        with pytest.raises(UserMistake, match=told):
            Design(**settings)


def test_the_proxy_is_the_reward_that_is_trained_on():
    from experiments.timesteps.design import GRPO, HIGH, WEIGHTS, Design
    from experiments.timesteps.report import PROXY, values

    config = Design().config(GRPO, HIGH, 0, 1)
    assert {reward.name: reward.weight for reward in config.rewards} == WEIGHTS
    point = walk(HIGH, 0, [(0.3, 6)]).points[0]
    assert values(point, PROXY) == pytest.approx(np.full(10, 0.4))


def test_a_table_escapes_and_marks_what_is_clear():
    from experiments.page import Curve, markdown, told

    assert markdown(["a"], [["b|c"]]) == "| a |\n| --- |\n| b\\|c |\n"
    assert told({"value": 0.1, "low": 0.05, "high": 0.15}) == "**+10.0 (+5.0 to +15.0)**"
    assert told({"value": 0.1, "low": math.nan, "high": math.nan}) == "+10.0 (no interval)"
    assert Curve("x", 0, [{0: 1.0, 1: 3.0}, {0: 3.0}]).mean() == ([0], [2.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "less"),
    [("hybrid_cfg", {"steps": 1}), ("timesteps", {"steps": 1, "algorithms": "grpo"}), ("algorithms", {"seconds": 1e-6})],
)
def test_it_runs_and_goes_on(tmp_path, name, less):
    from importlib import import_module

    experiment = import_module(f"experiments.{name}.__main__")
    design = replace(experiment.QUICK, **less)
    experiment.run(tmp_path, design)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rows"] and Image.open(tmp_path / "result.png").width > 500
    assert "− base" in (tmp_path / "result.md").read_text()
    said: list[str] = []
    next(tmp_path.glob("seed-0/*/point-00001.json")).unlink()  # as if it had stopped before it was measured
    experiment.run(tmp_path, design, say=said.append)
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == result["rows"]
    assert len(said) > 1
    with pytest.raises(UserMistake, match="another design"):
        experiment.run(tmp_path, replace(design, held_out=12))
