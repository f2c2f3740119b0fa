"""Who is compared with whom, and tables of two tasks, missing scores and several guidance scales."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tastemaker.evaluation.comparison import Side, compare, pairs_of
from tastemaker.evaluation.conclusions import headline
from tastemaker.evaluation.summary import Summary
from tastemaker.evaluation.summary_file import read_summary, write_summary
from tastemaker.types import Prompt

PROMPTS = [Prompt(str(n), "x", category="ab"[n % 2], task="t2i" if n < 6 else "edit") for n in range(10)]
NAN = math.nan


def side(model, guidance, verdicts=None, **others):
    found = None if verdicts is None else np.array(verdicts, dtype=float)
    return Side(model, guidance, 4 if guidance == 1 else 8, found, **others)


def sides_of(*names):
    return [side(name, guidance) for name, scales in names for guidance in scales]


def told(pairs):
    return [(a.model, a.guidance, b.model, b.guidance) for a, b in pairs]


def test_each_is_compared_at_its_own_guidance_and_with_the_bases_first():
    sides = sides_of(("base", (3, 1)), ("trained", (3, 1)), ("student", (1,)))
    assert told(pairs_of(sides, ["base"])) == [
        ("trained", 3, "base", 3),
        ("trained", 1, "base", 1),
        ("trained", 1, "base", 3),
        ("student", 1, "base", 1),
        ("student", 1, "base", 3),
    ]
    assert told(pairs_of(sides, ["trained"])) == [("student", 1, "trained", 1), ("student", 1, "trained", 3)]
    assert pairs_of(sides, ["nobody"]) == []
    own = {"trained": ["base"], "student": ["trained"]}
    assert {(a, b) for a, _, b, _ in told(pairs_of(sides, own))} == {("trained", "base"), ("student", "trained")}


def test_tables_by_task_and_category():
    base = side("base", 1, [0, 0, 1, 1, 0, 1, 0, 1, 0, NAN])
    better = side("better", 1, [1, 0, 1, 1, 1, 1, 1, 1, 0, 1])
    tables = compare([base, better], PROMPTS, against=["base"])
    overall = {(row.task, row.model): (row.n, row.accuracy, row.missing) for row in tables.rows if row.category == "all"}
    assert overall == {
        ("t2i", "base"): (6, 0.5, 0),
        ("t2i", "better"): (6, pytest.approx(5 / 6), 0),
        ("edit", "base"): (3, pytest.approx(1 / 3), 1),
        ("edit", "better"): (4, 0.75, 0),
    }
    assert [(d.task, d.category, d.n, round(d.difference, 3)) for d in tables.differences] == [
        ("t2i", "all", 6, 0.333),
        ("t2i", "a", 3, 0.667),
        ("t2i", "b", 3, 0.0),
        ("edit", "all", 3, 0.333),
        ("edit", "a", 2, 0.5),
        ("edit", "b", 1, 0.0),
    ]
    assert [(e.task, e.category, e.wins, e.ties, e.losses, e.missing) for e in tables.elo if e.category == "all"] == [
        ("t2i", "all", 2, 4, 0, 0),
        ("edit", "all", 1, 2, 0, 1),
    ]
    assert not tables.scores and not tables.score_differences


def test_a_missing_score_is_counted_and_one_that_was_not_asked_is_not(tmp_path):
    none = np.zeros(10, bool)
    lost = none.copy()
    lost[1] = True
    values = np.array([0.2, NAN, 0.4, 0.6, 0.8, 0.5, NAN, NAN, NAN, NAN])  # of the six prompts one is lost; edits are not asked

    def judged(name, values, missing):
        return side(name, 1, scores={"taste": values}, missing={"taste": missing}, judged=values, noise=np.full(10, 0.05))

    sides = [judged("base", values, lost), judged("better", values + np.array([0.1, 0, 0.04, 0.2, -0.3, 0, 0, 0, 0, 0]), none)]
    tables = compare(sides, PROMPTS, against=["base"])
    row = next(row for row in tables.scores if row.category == "all")
    assert (row.task, row.reward, row.n, row.missing, row.mean) == ("t2i", "taste", 5, 1, pytest.approx(0.5))
    assert {row.task for row in tables.scores} == {"t2i"} and not tables.rows
    difference = next(d for d in tables.score_differences if d.category == "all")
    assert (difference.n, difference.missing, round(difference.difference, 4)) == (5, 1, 0.008)
    (rating,) = (e for e in tables.elo if e.category == "all" and e.task == "t2i")
    assert (rating.by, rating.wins, rating.ties, rating.losses, rating.missing) == ("judges", 2, 2, 1, 1)

    summary = Summary(**vars(tables), wall_seconds=1.0, seed=0)
    assert "better without guidance against base without guidance: 0.008 in the score of taste" in headline(summary)
    read = read_summary(write_summary(tmp_path / "summary.json", summary))
    assert repr(read) == repr(summary)


def test_shares_among_the_scores_have_an_interval_within_0_and_1():
    whole = side("base", 1, scores={"kept": np.ones(10)}, missing={"kept": np.zeros(10, bool)})
    row = compare([whole], PROMPTS, against=["base"]).scores[0]
    assert row.mean == 1 and 0.5 < row.low < 1 and row.high == 1
