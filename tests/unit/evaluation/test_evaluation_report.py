import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fabricated_run import fabricated_history, fabricated_report, fabricated_summary
from PIL import Image

from tastemaker.evaluation.charts import (
    DARK,
    category_bars,
    difference_plot,
    draw_panels,
    recolour,
    training_curves,
    training_panels,
)
from tastemaker.evaluation.picture_statistics import Shift
from tastemaker.evaluation.report import render_report, write_report
from tastemaker.evaluation.scores import ALL_JUDGES, ScoreDifference, ScoreRow
from tastemaker.evaluation.summary import Difference, Row, Summary
from tastemaker.evaluation.wall import paired_wall

NASTY = "<script>alert(1)</script>\"'>{{ 7*7 }}</style>&$x_1$"


class Page(HTMLParser):
    """Tags, and every address a browser might follow."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words, self.open = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "srcset", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return fabricated_report(tmp_path_factory.mktemp("run"))


def test_a_report_stands_alone(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "form"}
    assert not page.open
    assert sorted(p.name for p in report.parent.iterdir()) == ["report.html", "summary.json", "wall.png"]


def test_a_report_says_what_was_found_and_how(report):
    text = " ".join(" ".join(Page(report.read_text(encoding="utf-8")).words).split())
    for expected in (
        "Fabricated data", "On 500 held-out prompts, student without guidance gets", "95% interval", "(1 missing)", "off vs 3",
        "Was the reward bought?", "T2I specialist", "guidance.scale", "2.13.0+cpu", "seed 7",
        "share of the prompt's facts", "no picture",
        "“<b>Tür & Tor</b>” in 红色",
    ):  # fmt: skip
        assert expected in text, expected


def test_hostile_text_is_only_text(tmp_path):
    row = Row.of([True, False, True], model=NASTY, task=NASTY, guidance=2.0, forwards_per_image=9, category=NASTY)
    whole = Row.of([True, False, True], model=NASTY, task=NASTY, guidance=2.0, forwards_per_image=9)
    change = Difference.of([1, 1, 0], [0, 1, 1], pair=(NASTY, "$"), task=NASTY, guidance=2.0)
    summary = Summary(
        (whole, row), (change,), wall_seconds=1, seed=1, versions={NASTY: NASTY}, settings={NASTY: {NASTY: NASTY}},
        rewards={NASTY: NASTY}, notes=(NASTY,), warning=NASTY,
    )  # fmt: skip
    wall = paired_wall(NASTY, (NASTY,), [NASTY], [[None]], [[True]])
    history = {NASTY: [{"step": 1, f"reward/{NASTY}": 1.0, "reward/b": 0.2}]}
    shift = Shift(NASTY, 1, 0.0, 1.0, 1.0, math.nan)
    page = Page(write_report(tmp_path, summary, title=NASTY, history=history, walls=[wall], shifts=[shift]).read_text("utf-8"))
    assert "script" not in page.tags and not page.open
    assert sum("{{ 7*7 }}" in words for words in page.words) > 12
    assert not any("49" in words and "alert" in words for words in page.words)


def test_an_empty_run_still_reports():
    page = Page(render_report(Summary((), (), wall_seconds=math.nan, seed=0)))
    assert "Nothing was evaluated." in " ".join(page.words)
    assert not page.addresses


def test_missing_numbers_are_dashes_not_nan():
    row = Row.of([None], model="base", task="t2i", guidance=1, forwards_per_image=1)
    change = Difference.of([None], [1], pair=("a", "b"), task="t2i", guidance=1)
    text = " ".join(Page(render_report(Summary((row,), (change,), 1.0, 0))).words)
    assert "nan" not in text and "–" in text and "no interval" in text


def test_charts_are_files_of_their_format():
    summary, _ = fabricated_summary(20)
    drawn = (
        training_curves(fabricated_history(9), form="png"),
        category_bars(summary.rows[:12], form="png", theme=DARK),
        difference_plot(summary.differences[:6], form="png"),
    )
    assert all(Image.open(io.BytesIO(content)).width > 300 for content in drawn)
    empty = (training_curves([]), category_bars([]), difference_plot([]))
    assert all(b"<svg" in content and b"<script" not in content for content in empty)


def test_the_same_chart_has_the_same_bytes():
    history = [{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}]
    assert training_curves(history) == training_curves(history)


def test_a_recoloured_chart_has_the_colours_of_one_drawn_so():
    summary, _ = fabricated_summary(20)
    chosen = summary.differences[:3]

    def colours(svg):
        return sorted(re.findall(rb"(?:fill|stroke|color): (#[0-9a-f]{6})", svg))

    light = difference_plot(chosen)
    assert colours(recolour(light)) == colours(difference_plot(chosen, theme=DARK)) != colours(light)


def test_panels_take_what_the_history_has():
    history = [{"step": 1, "reward/a": 0.5, "note": "x", "kl": float("nan")}, {"step": 2, "reward/b": np.float32(1), "loss": 3}]
    assert training_panels(history) == {"Reward": ("reward/a", "reward/b"), "Loss": ("loss",)}


def test_categories_have_a_panel_for_each_reward():
    history = [{"step": 1, "reward/a": 0.5, "reward/a/x": 1.0, "reward/a/y [z]/b": 2.0, "reward/b": 1.0, "reward/b/x": 3.0}]
    panels = training_panels(history)
    assert panels == {
        "Reward": ("reward/a", "reward/b"),
        "Reward: a, by category": ("reward/a/x", "reward/a/y [z]/b"),
        "Reward: b, by category": ("reward/b/x",),
    }
    assert b"<svg" in draw_panels(history, {"Reward: a, by category": panels["Reward: a, by category"]})


def test_where_no_truth_is_known_categories_are_shown_by_what_the_judges_say():
    """Two judges: bars, forest and warning are of their weighted sum; the tables have each of them."""
    scores, differences = [], []
    for reward in ("taste", ALL_JUDGES):
        for category in ("all", "portrait", "typography"):
            for model in ("base", "trained"):
                scores.append(ScoreRow(model, "t2i", 1.0, reward, category, 30, 0.5, 0.4, 0.6))
            low = -0.13 if category == "portrait" else -0.01
            differences.append(
                ScoreDifference(("trained", "base"), "t2i", 1.0, reward, category, 30, low + 0.05, low, low + 0.1)
            )
    page = render_report(Summary((), (), 1.0, 0, scores=tuple(scores), score_differences=tuple(differences)))
    warning = page[page.index('role="alert"') :]
    assert "portrait: trained is 0.080 below base in the score of all judges" in warning and page.count('role="alert"') == 1
    assert "The mean score of all judges by category, t2i, guidance off" in page
    assert "Paired differences in the mean score of all judges, trained minus base" in page
    words = " ".join(" ".join(Page(page).words).split())
    assert "Bars show the mean score of all judges" in words
    for title in ("Mean scores by category", "Paired differences of scores by category"):
        assert title in words
    assert words.count("taste portrait") == 3  # two models and their difference
    chart = category_bars([row for row in scores if row.reward == ALL_JUDGES], form="png")
    assert Image.open(io.BytesIO(chart)).width > 300 and b"<svg" in difference_plot(differences[:3])


def test_a_category_that_fell_is_told_on_top_of_the_report(tmp_path):
    fell = Difference(("trained", "base"), "t2i", 1.0, "portrait <b>", 150, -0.063, -0.11, -0.019)
    page = render_report(Summary((), (fell,), 1.0, 0))
    warning = page[page.index('role="alert"') :]
    assert "portrait &lt;b&gt;" in warning and "6.3 points below base" in warning
