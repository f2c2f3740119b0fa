import io
import json
import math

import pytest
from fabricated_run import fabricated_summary
from rich.console import Console

from tastemaker.errors import UserMistake
from tastemaker.evaluation.summary import (
    Difference,
    Row,
    Summary,
    differences_by_category,
    duration,
    headline,
    print_table,
    read_summary,
    rows_by_category,
    write_summary,
)


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
