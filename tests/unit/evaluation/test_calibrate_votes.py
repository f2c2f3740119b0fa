"""The command around the fit: every mistake with its row and field, a table with intervals, YAML that a config takes."""

import io
import json
import random

import numpy as np
import pytest
from rich.console import Console

from tastemaker.config import TrainConfig, parse
from tastemaker.errors import UserMistake
from tastemaker.evaluation.calibrate import Calibration, Fit
from tastemaker.evaluation.calibrate_votes import fragment, read_scored_votes, rounded, run

RANGES = {"alignment": (1.0, 5.0), "beauty": (0.0, 1.0), "portrait": (1.0, 5.0)}


def row(**changes):
    plain = {
        "prompt": "p1",
        "choice": "left",
        "left": {"alignment": 4, "beauty": 0.5},
        "right": {"alignment": 1.5, "beauty": None},
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not ...}


def written(folder, *rows):
    path = folder / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mistakes(folder, *rows, ranges=RANGES):
    with pytest.raises(UserMistake) as caught:
        read_scored_votes(written(folder, *rows), ranges)
    return [line.partition("votes.jsonl:")[2] for line in str(caught.value).splitlines()]


def test_votes_are_read(tmp_path):
    first, second = read_scored_votes(written(tmp_path, row(id="1", rater="r"), row(id="2", choice="tie", prompt="p2")), RANGES)
    assert (first.prompt, first.category, first.choice, second.choice) == ("p1", "general", 1.0, 0.5)
    assert first.right == {"alignment": 1.5, "beauty": None}


def test_all_mistakes_at_once_with_row_and_field(tmp_path):
    found = mistakes(
        tmp_path,
        row(id="1"),
        row(id="1", prompt="p2"),
        row(choice="both", left={"alignment": "4", "beauty": True}),
        row(left={"alignmnt": 3, "beauty": 0.5}, right=...),
        row(left={"alignment": 5.5, "beauty": 0.5}, prompt=...),
        row(right={"alignment": 2}, prompt="p3"),
        row(left={"alignment": 2, "beauty": 0.1, "portrait": 3}, prompt="p4"),
        row(category="portrait"),
        row(chioce="left"),
        row(left={}),
    )
    expected = [
        "2: id: '1'",
        "3: choice: 'both'",
        "3: left.alignment: '4' is no number; write null where the score did not arrive",
        "3: left.beauty: True is no number; write null where the score did not arrive",
        "4: left.alignmnt: unknown reward; did you mean 'alignment'?",
        '4: right: missing, empty or not an object; write the scores by reward, such as {"alignment": 0.9}',
        "5: prompt: missing",
        "5: left.alignment: 5.5 is outside of 1 to 5, the range of alignment; correct one of them",
        "6: right.beauty: missing, the first vote of 'general' has it; write null where it did not arrive",
        "7: left.portrait: the first vote of 'general' does not have it; all votes of a category do",
        "8: category: 'portrait', but an earlier vote on prompt 'p1' has 'general'; a prompt has one",
        "9: chioce: unknown key; did you mean 'choice'",
        '10: left: missing, empty or not an object; write the scores by reward, such as {"alignment": 0.9}',
    ]
    assert len(found) == len(expected) and all(map(str.startswith, found, expected)), found


def test_without_a_config_scores_range_from_0_to_1(tmp_path):
    (found,) = mistakes(tmp_path, row(right={"alignment": 0.2, "beauty": 0.1}), ranges=None)
    assert found == "1: left.alignment: 4 is outside of 0 to 1, the range of alignment; give the config that states its range"
    huge = written(tmp_path, row())
    huge.write_text(huge.read_text().replace("1.5", "1e999"))
    with pytest.raises(UserMistake, match=r"right\.alignment: inf is outside"):
        read_scored_votes(huge, RANGES)


def simulated(count=240):
    """Landscapes have no portrait score; in portraits it is what people look at."""
    draw = random.Random(0)
    for n in range(count):
        category = ("general", "portrait", "landscape")[n % 3]
        names = [name for name in RANGES if not (category == "landscape" and name == "portrait")]
        left, right = ({name: draw.uniform(*RANGES[name]) for name in names} for _ in range(2))
        judged = ["portrait"] if category == "portrait" else ["alignment", "alignment", "beauty"]
        better = sum((left[name] - right[name]) / (RANGES[name][1] - RANGES[name][0]) for name in judged)
        choice = "left" if better + draw.gauss(0, 0.3) > 0 else "right"
        yield row(prompt=f"{category} {n // 6}", category=category, choice=choice, left=left, right=right)


def test_prints_a_table_and_writes_yaml_that_a_config_takes(tmp_path):
    path = written(tmp_path, *simulated())
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    how = {"ranges": RANGES, "strength": 20, "resamples": 100, "seed": 0, "console": console}
    out = run(read_scored_votes(path, RANGES), path, **how)
    assert out == tmp_path / "votes.weights.yaml"
    text = shown.getvalue()
    for words in (
        "pooled",
        "landscape",
        "not asked",
        "temperature",
        "240",
        " to ",
        "strength 20, 100 resamples, seed 0",
        out.name,
    ):
        assert words in text, words
    config = parse("name: a\nmodel: m\ndata: {prompts: p}\n" + out.read_text(), TrainConfig)
    assert {reward.name: (reward.low, reward.high) for reward in config.rewards} == RANGES
    assert set(config.categories) >= {"portrait", "landscape"}
    assert config.categories["portrait"]["portrait"] > 0.6 and "portrait" not in config.categories["landscape"]
    again = run(
        read_scored_votes(path, RANGES),
        path,
        ranges=RANGES,
        strength=20,
        resamples=100,
        seed=0,
        out=tmp_path / "again.yaml",
        console=console,
    )
    assert again.read_text() == out.read_text(), "the same votes and seed give the same file"


def test_a_reward_without_a_score_is_told_from_one_that_was_not_asked(tmp_path):
    """A judge that failed on every portrait would otherwise lose its weight there without a word."""
    rows = list(simulated(120))
    for vote in rows:
        if vote["category"] == "portrait":
            vote["left"] = {**vote["left"], "beauty": None}
    path = written(tmp_path, *rows)
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    out = run(read_scored_votes(path, RANGES), path, ranges=RANGES, strength=20, resamples=20, seed=0, console=console)
    lines = shown.getvalue().splitlines()
    (portrait,) = (line for line in lines if line.strip("│ ").startswith("portrait "))
    (landscape,) = (line for line in lines if line.strip("│ ").startswith("landscape "))
    assert "no score" in portrait and "not asked" not in portrait
    assert "not asked" in landscape and "no score" not in landscape
    (said,) = (line for line in lines if "no vote has a score of" in line)
    assert said.startswith("portrait: no vote has a score of beauty on both sides")
    config = parse("name: a\nmodel: m\ndata: {prompts: p}\n" + out.read_text(), TrainConfig)
    assert "beauty" not in config.categories["portrait"]


def test_votes_of_which_none_has_all_scores_are_not_said_to_disagree(tmp_path):
    halves = [{"alignment": 4, "beauty": None}, {"alignment": None, "beauty": 0.5}]
    path = written(tmp_path, *(row(prompt=f"p{n}", left=halves[n % 2], right=halves[n % 2]) for n in range(40)))
    with pytest.raises(UserMistake, match="no vote has the scores of all rewards on both sides"):
        run(read_scored_votes(path, RANGES), path, ranges=RANGES, strength=20, resamples=20, seed=0)


def fit(weights, asked=None, **changes):
    weights = np.array(weights)
    values = {"num_votes": 50, "num_prompts": 25, "num_missing": 0, "asked_R": np.array(asked or [True] * 3), **changes}
    return Fit(weights, weights, weights, 0.1, 0.1, 0.1, **values)


def test_a_category_that_is_not_told_apart_stays_a_comment():
    found = Calibration(fit([0.7, 0.3, 0.0]), {"a: b": fit([0.5, 0.5, 0.0]), "typo": fit([1.0, 0.0, 0.0], told_apart=True)})
    text = fragment(found, RANGES, "from votes")
    config = parse("name: a\nmodel: m\ndata: {prompts: p}\n" + text, TrainConfig)
    assert config.categories == {"typo": {"alignment": 1.0}}
    assert '# "a: b" takes the weights above; 50 votes on 25 prompts' in text
    assert [reward.name for reward in config.rewards] == ["alignment", "beauty"] and "counts nowhere" in text
    assert "categories: {}" in fragment(Calibration(fit([0.7, 0.2, 0.1]), {"x": fit([0.5, 0.5, 0.0])}), RANGES, "c")


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.6666, 0.3334, 0.0], [1.0, 0.0], [1 / 7] * 7, [0.9996, 0.0004]])
def test_rounded_weights_still_add_up(weights):
    found = rounded(np.array(weights))
    assert abs(found.sum() - 1) < 1e-9 and np.abs(found - weights).max() < 1e-3 and (found >= 0).all()
