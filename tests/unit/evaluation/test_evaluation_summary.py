import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fabricated_run import fabricated_summary
from rich.console import Console

from tastemaker.errors import UserMistake
from tastemaker.evaluation.conclusions import fallen, falls, headline
from tastemaker.evaluation.scores import ALL_JUDGES, ScoreDifference
from tastemaker.evaluation.statistics import holm
from tastemaker.evaluation.summary import Difference, Row, Summary, differences_by_category, duration, rows_by_category
from tastemaker.evaluation.summary_file import read_summary, write_summary
from tastemaker.evaluation.terminal import print_table


def row(model, verdicts, guidance=1.0):
    return Row.of(verdicts, model=model, task="t2i", guidance=guidance, forwards_per_image=10)


def difference(after, before, **others):
    return Difference.of(after, before, pair=("trained", "base"), task="t2i", guidance=1.0, **others)


def summary(rows=(), differences=(), **others):
    return Summary(tuple(rows), tuple(differences), wall_seconds=61.0, seed=3, **others)


def test_the_file_is_strict_json_and_reads_back(tmp_path):
    written, _ = fabricated_summary()
    path = write_summary(tmp_path / "summary.json", written)
    assert read_summary(path) == written
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_unknown_is_null_in_the_file_and_nan_here(tmp_path):
    made = summary([row("base", [None, True])], settings={"rate": math.inf, "path": tmp_path})
    path = write_summary(tmp_path / "summary.json", made)
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (data["rows"][0]["accuracy"], data["rows"][0]["low"], data["rows"][0]["missing"]) == (1.0, None, 1)
    assert data["settings"] == {"rate": None, "path": str(tmp_path)}
    assert math.isnan(read_summary(path).rows[0].low)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a summary"),
        ('{"differences": []}', "'rows' is missing"),
        ('{"rows": [{"modell": "base"}], "differences": []}', r"rows\[0\]: unknown key 'modell'"),
        ('{"rows": [{"model": "base"}], "differences": []}', r"rows\[0\].*task"),
        ("[]", "not a summary"),
    ],
)
def test_a_broken_file_is_the_users_mistake(tmp_path, text, says):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserMistake, match=says):
        read_summary(tmp_path / "summary.json")


def test_categories_split_rows_and_pairs():
    categories = ["b", "a", "b", "a"]
    rows = rows_by_category([1, 0, 1, None], categories, model="base", task="t2i", guidance=3, forwards_per_image=20)
    assert [(r.category, r.n, r.accuracy, r.missing) for r in rows] == [
        ("all", 3, pytest.approx(2 / 3), 1),
        ("b", 2, 1.0, 0),
        ("a", 1, 0.0, 1),
    ]
    found = differences_by_category([1, 1, 1, 0], [0, 1, 1, 0], categories, pair=("x", "y"), task="t2i", guidance=1)
    assert [(d.category, d.n, d.difference) for d in found] == [("all", 4, 0.25), ("b", 2, 0.5), ("a", 2, 0.0)]
    with pytest.raises(ValueError, match="each verdict needs"):
        rows_by_category([1], categories, model="base", task="t2i", guidance=3, forwards_per_image=20)
    with pytest.raises(ValueError, match="rename it"):
        differences_by_category([1], [1], ["all"], pair=("x", "y"), task="t2i", guidance=1)


def test_the_headline_claims_no_more_than_the_interval():
    base, better = [False] * 60 + [True] * 40, [False] * 20 + [True] * 80
    gain = summary([row("base", base), row("trained", better)], [difference(better, base)])
    assert headline(gain).startswith(
        "On 100 held-out prompts without guidance, trained gets 80.0% right and base 40.0%: +40.0 points (95% interval +"
    )
    same = summary([row("base", base)], [difference(base, base)])
    assert headline(same).endswith("no clear difference.")
    crossed = summary(
        [row("base", base, guidance=3.0), row("trained", better)], [difference(better, base, against_guidance=3.0)]
    )
    assert "trained without guidance gets 80.0% right and base with guidance 3 40.0%" in headline(crossed)
    assert "compared with no other model" in headline(summary([row("base", base)]))
    assert headline(summary()) == "Nothing was evaluated."
    assert "no clear difference" in headline(summary([], [difference([], [])]))


def test_the_table_shows_names_as_they_are():
    text = io.StringIO()
    made = summary([row("[red]base[/red]", [True] * 8)], [difference([True] * 8, [False] * 8)], warning="incomplete, n=8")
    print_table(made, Console(file=text, width=160))
    for expected in ("incomplete, n=8", "[red]base[/red]", "100.0%", "trained − base", "+100.0"):
        assert expected in text.getvalue()


def test_durations_read_well():
    assert [duration(s) for s in (4, 61, 3600 * 2 + 59, math.nan)] == ["4 s", "1 min 1 s", "2 h 0 min", "unknown time"]


def category(name, value, low, high, guidance=1.0):
    return Difference(("trained", "base"), "t2i", guidance, name, 150, value, low, high)


def test_a_category_fell_when_the_upper_end_is_below_zero():
    found = falls(
        [
            category("all", -0.1, -0.2, -0.05),
            category("a", -0.06, -0.11, -0.01),
            category("b", -0.06, -0.12, 0.0),
            category("c", 0.02, -0.02, 0.06),
            category("d", math.nan, math.nan, math.nan),
        ]
    )
    assert [(fall.difference.category, fall.among) for fall in found] == [("a", 4)]


def test_a_fall_says_whether_it_holds_among_all_that_were_compared():
    """z of 2.3 is p = 0.011, one-sided: under 0.025, and over a third of it."""
    slight, clear = category("a", -0.10, -0.19, -0.10 + 1.96 * 0.10 / 2.3), category("b", -0.10, -0.13, -0.07)
    same = category("c", 0.01, -0.02, 0.04)
    assert [fall.corrected for fall in falls([slight])] == [True]
    assert [fall.corrected for fall in falls([slight, clear, same])] == [True, True]
    assert [fall.corrected for fall in falls([slight, same, category("d", 0.01, -0.02, 0.04)])] == [False]
    other = category("c", 0.01, -0.02, 0.04, guidance=3.0)
    assert [fall.among for fall in falls([slight, same, other])] == [2]


def test_drawing_without_guidance_is_no_fall_from_a_guided_base_where_the_guided_were_compared():
    worse = category("a", -0.2, -0.3, -0.1, guidance=1.0)
    across = replace(worse, against_guidance=1.5)
    guided = category("a", 0.01, -0.02, 0.04, guidance=1.5)
    assert falls([guided, across]) == []
    assert [fall.difference for fall in falls([across])] == [across]  # a student is not drawn with guidance
    assert [fall.difference for fall in falls([guided, worse, across])] == [worse]


def judged(name, value, low, high, n=150, reward="taste"):
    return ScoreDifference(("trained", "base"), "t2i", 1.0, reward, name, n, value, low, high)


def test_without_truth_a_category_falls_by_what_the_judges_say():
    """Their weighted sum where there are several; of three pairs all fall in one case of eight, so few tell nothing."""
    fell, well = judged("a", -0.2, -0.3, -0.1), judged("b", 0.1, 0.0, 0.2)
    few = judged("c", -0.2, -0.3, -0.1, n=19)
    one = summary(score_differences=(judged("all", -0.1, -0.2, -0.05), fell, well, few))
    assert [(fall.difference, fall.among) for fall in fallen(one)] == [(fell, 3)]
    both = judged("b", -0.2, -0.3, -0.1, reward=ALL_JUDGES)
    several = replace(one, score_differences=(*one.score_differences, both))
    assert [fall.difference for fall in fallen(several)] == [both]
    known = replace(one, differences=(category("a", 0.02, -0.02, 0.06),))
    assert fallen(known) == [], "truth decides where it is known"
    out = io.StringIO()
    print_table(one, Console(file=out, width=300))
    assert (
        "fell below its base: a: trained is 0.200 below base in the score of taste (95% interval −0.300 to −0.100, n = 150, "
        "t2i, guidance off); 3 categories compared, still clear when corrected for that (Holm)"
    ) in out.getvalue()


def test_how_often_an_unchanged_category_is_told():
    """Of 400 that are equal in truth, one in forty at most; with Holm over four, in one family of forty at most."""
    rng = np.random.default_rng(0)
    told, families = 0, 0
    for _ in range(100):
        family = [difference(rng.random(120) < 0.5, rng.random(120) < 0.5, category=name) for name in ("a", "b", "c", "d")]
        found = falls(family)
        told, families = told + len(found), families + any(fall.corrected for fall in found)
    assert told <= 20 and families <= 8


def test_the_terminal_says_which_category_fell():
    out = io.StringIO()
    made = summary([row("base", [True])], [category("portrait", -0.063, -0.11, -0.019)])
    print_table(made, Console(file=out, width=300))
    assert (
        "fell below its base: portrait: trained is 6.3 points below base (95% interval −11.0 to −1.9, n = 150, t2i, "
        "guidance off)\n"
    ) in out.getvalue()


def test_holm_by_hand():
    assert holm([], 0.05) == []
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([1.0, 0.01], 0.05) == [False, True]
