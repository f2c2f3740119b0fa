"""Which prompts are kept: ranges of composites, thresholds by share, ties, and scores that are missing."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from tastemaker.data.curation import (
    KEPT,
    MISSING,
    NO_DIFFERENCE,
    TOO_EASY,
    TOO_HARD,
    Samples,
    composite_range,
    select,
    threshold_of,
    thresholds_of,
)
from tastemaker.evaluation.curation import headings, told, write_findings
from tastemaker.types import Prompt

NAN = math.nan


def samples(*composites):
    return [Samples(Prompt(str(n), "x"), {}, np.array(one, dtype=float)) for n, one in enumerate(composites)]


def outcomes(threshold, *composites):
    return [outcome.what for outcome in select(samples(*composites), {"t2i": threshold})]


def test_a_range_above_the_threshold_is_kept_and_one_at_it_is_not():
    assert outcomes(0.25, [0.5, 0.75], [0.5, 0.75 + 1e-9], [0.4, 0.5]) == [NO_DIFFERENCE, KEPT, NO_DIFFERENCE]


def test_why_a_prompt_is_dropped():
    found = outcomes(0.3, [0.75, 1.0], [0.0, 0.25], [0.74, 1.0], [0.5, 0.5])
    assert found == [TOO_EASY, TOO_HARD, NO_DIFFERENCE, NO_DIFFERENCE]


def test_equal_samples_are_never_kept_even_at_threshold_0():
    assert outcomes(0.0, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]) == [NO_DIFFERENCE, TOO_EASY]


def test_a_prompt_is_judged_on_the_samples_that_have_all_scores_if_they_are_half():
    found = select(samples([0.1, 0.9, NAN, NAN], [0.1, NAN, NAN, NAN], [NAN] * 4, [0.2, 0.8, 0.5, NAN]), {"t2i": 0.3})
    assert [one.what for one in found] == [KEPT, MISSING, MISSING, KEPT]
    assert [one.num_judged for one in found] == [2, 1, 0, 3]
    assert math.isnan(found[1].range) and math.isnan(found[1].mean) and found[0].mean == pytest.approx(0.5)


def test_a_missing_score_never_makes_a_range():
    """Read as 0 it would give the largest range of all."""
    assert composite_range(np.array([0.9, 0.9, 0.9, NAN])) == 0.0


def test_an_odd_group_needs_more_than_half():
    assert math.isnan(composite_range(np.array([0.1, 0.9, NAN, NAN, NAN])))
    assert composite_range(np.array([0.1, 0.9, 0.5, NAN, NAN])) == pytest.approx(0.8)


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_share_keeps_that_share(keep):
    ranges = np.random.default_rng(0).permutation(np.linspace(0.01, 0.8, 40))
    assert (ranges > threshold_of(ranges, keep)).sum() == round(40 * keep)


def test_equal_ranges_stay_together_and_zero_is_never_kept():
    assert (np.array([1, 1, 1, 0.5, 0]) > threshold_of([1, 1, 1, 0.5, 0], 0.2)).sum() == 3
    assert threshold_of([0.0, 0.0, 0.4, 0.0], 1.0) == 0.0
    assert threshold_of([0.0, 0.0], 0.5) == 0.0
    assert threshold_of([0.4, 0.4], 0.5) == 0.0


def test_prompts_without_scores_do_not_count_towards_the_share():
    assert (np.array([0.1, 0.2, 0.3, 0.4]) > threshold_of([0.1, NAN, 0.2, 0.3, NAN, 0.4], 0.5)).sum() == 2
    assert threshold_of([NAN, NAN], 0.5) == 0.0


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, NAN])
def test_a_share_that_is_none(keep):
    with pytest.raises(ValueError, match="share"):
        threshold_of([0.1], keep)


def test_each_task_has_a_threshold_of_its_own():
    """Edits whose ranges are all smaller than those of text to image: one threshold for both would drop them all."""
    wide = [Samples(Prompt(f"t{n}", "x"), {}, np.array([0.0, 0.5 + n / 20])) for n in range(8)]
    narrow = [Samples(Prompt(f"e{n}", "x", task="edit"), {}, np.array([0.4, 0.41 + n / 100])) for n in range(4)]
    thresholds = thresholds_of([*wide, *narrow], 0.5)
    kept = [s.prompt.id for s, o in zip([*wide, *narrow], select([*wide, *narrow], thresholds), strict=True) if o.kept]
    assert kept == ["t4", "t5", "t6", "t7", "e2", "e3"]
    assert headings([wide[0]]) == ["general"] and headings([wide[0], narrow[0]]) == ["t2i/general", "edit/general"]
    assert told(thresholds) == "0.65 (t2i), 0.02 (edit)" and told({"t2i": 0.3, "edit": 0.3}) == "0.3"


def test_a_mixed_list_is_told_by_task(tmp_path):
    some = [
        Samples(Prompt(f"{task}{n}", "x", category, task), {"r": np.array([0.1, 0.1 + n / 9])}, np.array([0.1, 0.1 + n / 9]))
        for task in ("t2i", "edit")
        for category in ("portrait", "landscape")
        for n in range(4)
    ]
    outcomes = select(some, thresholds := thresholds_of(some, 0.5))
    shares = write_findings(tmp_path, some, outcomes, thresholds, "x")
    assert [share.category for share in shares] == [
        "all",
        *(f"{t}/{c}" for t in ("edit", "t2i") for c in ("landscape", "portrait")),
    ]
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {(row["task"], row["category"]) for row in rows} == {(one.prompt.task, one.prompt.category) for one in some}
    assert json.loads((tmp_path / "summary.json").read_text())["thresholds"] == thresholds
    assert (tmp_path / "ranges.png").read_bytes()[:4] == b"\x89PNG"
