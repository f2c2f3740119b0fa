"""What the monitor is made of: bands, the rule of an alarm, which prompts are watched and swapped, the chart."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from fabricated_run import fabricated_summary
from PIL import Image

from tastemaker.evaluation.alarm import held_to_limits, judge, sentence
from tastemaker.evaluation.band import Band, Reading, quantile
from tastemaker.evaluation.monitor import sheet
from tastemaker.evaluation.monitor_chart import monitor_curves, panels, write_monitor_chart
from tastemaker.evaluation.picture_statistics import MEANING, RESOLUTION, measure, measure_prompts, prompt_means
from tastemaker.evaluation.report import render_report
from tastemaker.evaluation.statistics import mean_over
from tastemaker.evaluation.watched import chosen, partners
from tastemaker.types import Prompt

ONE = {"threshold": 3, "deciding": 1, "looked_at": 12}


def reading(distance=0.0, limit=4.0, base=1.0, spread=0.1):
    return Reading(base + spread * distance, base, spread, distance, limit, limit + 1)


def readings(**distances):
    names = {"truth": "truth/exact"}
    return {names.get(name, name): reading(distance) for name, distance in distances.items()}


def test_a_band_says_how_far_in_spreads_of_the_mean():
    """Two prompts with standard deviations 3 and 4: their mean has 5 / 2."""
    band = Band.of(np.array([[7.0, 16.0], [10.0, 20.0], [13.0, 24.0]]), floor=1e-3)
    found = band.read(np.array([20.0, 30.0]), **ONE)
    assert (found.base, found.value) == (15, 25)
    assert found.spread == pytest.approx(2.5) and found.distance == pytest.approx(4) and found.rise == pytest.approx(10)
    assert band.spread == pytest.approx(2.5)


def test_a_band_compares_the_prompts_that_both_have():
    band = Band.of(np.array([[1.0, math.nan, 3.0], [3.0, 5.0, 5.0]]), floor=1e-3)
    found = band.read(np.array([4.0, 9.0, math.nan]), **ONE)
    assert (found.base, found.value, found.rise) == (2, 4, 2)
    assert band.read(np.array([math.nan, 9.0, math.nan]), **ONE) is None
    assert Band.of(np.full((2, 3), math.nan), 1e-3).empty and not band.empty
    with pytest.raises(ValueError, match="at least two"):
        Band.of(np.ones((1, 3)), 1e-3)


def test_what_never_varied_is_held_against_the_floor():
    band = Band.of(np.zeros((4, 6)), floor=0.02)
    found = band.read(np.full(6, 0.1), **ONE)
    assert found.spread == 0.02 and found.distance == pytest.approx(5)
    assert found.limit == pytest.approx(3 * math.sqrt(1.25))  # a floor is no estimate, so no wider than a normal's
    assert found.notice == pytest.approx(3.68917 * math.sqrt(1.25), abs=0.01)  # the normal's for 0.27% / 12
    assert found.beyond and found.notable


def test_a_band_survives_the_file():
    band = Band.of(np.array([[1.0, math.nan], [2.0, 5.0]]), floor=0.1)
    again = Band.from_json(json.loads(json.dumps(band.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(again.means_P, band.means_P)
    np.testing.assert_array_equal(again.variances_P, band.variances_P)
    np.testing.assert_array_equal(again.first_P, band.first_P)
    assert (again.seeds, again.floor) == (2, 0.1)


def test_limits_against_tables():
    """Student's table: t(10, 0.995) = 3.169; a normal variable is beyond 1.959964 in 2.5% on each side."""
    assert quantile(2.5758293, tests=1, freedom=10) == pytest.approx(3.1693, abs=1e-3)
    assert quantile(1.6448536, tests=2, freedom=math.inf) == pytest.approx(1.959964, abs=1e-5)


def test_what_was_special_about_the_noise_is_taken_off_as_long_as_it_shows():
    """The same pictures are no distance away, however odd their noise; then a shift of theirs is seen whole."""
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(4, 24))
    sets[0] += 0.8  # a set that is far from the others
    band = Band.of(sets, 1e-3)
    assert abs(band.read(sets[1], **ONE).distance) > 0.3
    same, shifted = band.read(sets[0], **ONE), band.read(sets[0] + 0.7, **ONE)
    assert same.distance == pytest.approx(0, abs=1e-9) and same.limit == 3
    assert shifted.rise == pytest.approx(0.7) and shifted.limit == 3
    other = band.read(rng.normal(size=24), **ONE)
    assert other.limit > 3.3 and other.notice > other.limit
    against = band.read(-sets[0], **ONE)  # a negative correlation is none
    assert against.base == pytest.approx(sets.mean())


@pytest.mark.parametrize(
    "found, alarms",
    [
        (readings(reward=9, swapped_reward=9, saturation=6), {"prompt-free reward"}),  # bought
        (readings(reward=9, swapped_reward=5, contrast=-5), {"prompt-free reward"}),  # down is a move too
        (readings(reward=9, swapped_reward=0, saturation=6), set()),  # earned: other prompts give nothing more
        (readings(reward=20, swapped_reward=5, saturation=6), set()),  # most of it is earned
        (readings(reward=9, swapped_reward=9, saturation=3), set()),  # no statistic moved
        (readings(reward=-9, swapped_reward=-9, saturation=6), set()),  # the reward fell
        (readings(saturation=6), set()),  # no other prompts to swap with
        (readings(reward=0, swapped_reward=0, truth=-5), {"truth fell"}),
        (readings(reward=9, swapped_reward=0, truth=5), set()),  # truth rose
        (readings(reward=9, swapped_reward=9, truth=-5, saturation=5), {"truth fell", "prompt-free reward"}),
    ],
)
def test_when_it_is_an_alarm(found, alarms):
    assert set(judge(found).alarms) == alarms


def test_what_moved_is_listed_but_rewards_may_rise():
    found = readings(reward=50, swapped_reward=-9, truth=9, contrast=5.1, grid=-4.9)
    found |= {"reward/taste": reading(50), "swapped/taste": reading(50)}
    assert judge(found).moved == ("contrast",)
    assert held_to_limits(found) == ["swapped_reward", "truth/exact", "contrast", "grid"]


def test_the_line_names_the_farthest_first():
    text = sentence(["grid", "saturation"], {"grid": reading(5), "saturation": reading(8.44, limit=4.1)})
    assert "grid 1.5, base 1 ± 0.1: +5.0 sd (limit 5.0)" in sentence(["grid"], {"grid": reading(5)}, notice=True)
    assert text == "saturation 1.84, base 1 ± 0.1: +8.4 sd (limit 4.1); grid 1.5, base 1 ± 0.1: +5.0 sd (limit 4.0)"
    many = {str(n): reading(n) for n in range(5, 10)}
    assert sentence(many, many).endswith("and 2 more") and sentence(many, many).startswith("9 ")


def test_every_prompt_is_swapped_with_another_of_its_kind():
    kinds = ["a", "b", "a", "c", "a", "b"]
    assert partners(kinds, "uvwxyz") == (2, 5, 4, None, 0, 1)
    assert partners(kinds, "uvwxuv") == (2, None, 4, None, 2, None), "the same text would swap nothing"
    assert partners([], "") == ()


def test_watched_prompts_are_different_and_spread_over_categories():
    prompts = [Prompt(f"{c}{n}", f"{c} {n % 30}", c) for c, count in (("a", 90), ("b", 40), ("c", 2)) for n in range(count)]
    some = chosen(prompts, 12, seed=1)
    assert [prompt.category for prompt in some] == ["a"] * 5 + ["b"] * 5 + ["c"] * 2
    assert len({prompt.text for prompt in some}) == 12
    assert some == chosen(prompts, 12, seed=1) != chosen(prompts, 12, seed=2)
    assert len(chosen(prompts, 1000, seed=1)) == 62


def test_watched_prompts_are_as_many_of_each_task():
    """200 edits beside 3800 prompts of text to image, all of few categories: both tasks are watched."""
    many = [Prompt(f"t{n}", f"t {n}", "abcdef"[n % 6]) for n in range(3800)]
    few = [Prompt(f"e{n}", f"e {n}", "ab"[n % 2], "edit", (f"{n}.png",)) for n in range(200)]
    some = chosen([*many, *few], 24, seed=1)
    counted = Counter((one.task, one.category) for one in some)
    assert counted == {**{("t2i", c): 2 for c in "abcdef"}, **{("edit", c): 6 for c in "ab"}}
    assert Counter(one.task for one in chosen([*many, *few[:3]], 24, seed=1)) == {"t2i": 21, "edit": 3}


def test_statistics_by_prompt_are_means_of_its_pictures():
    rng = np.random.default_rng(0)
    pictures = rng.random((6, 3, 64, 64), np.float32)
    names = list("aabbab")
    found = measure_prompts(pictures, names)
    assert found.keys() == MEANING.keys() == RESOLUTION.keys()
    assert found["contrast"] == pytest.approx([measure(pictures[rows])["contrast"].mean() for rows in ([0, 1, 4], [2, 3, 5])])
    np.testing.assert_array_equal(prompt_means(np.array([1, math.nan, 3, math.nan]), list("aabb")), [1, 3])
    assert np.isnan(prompt_means(np.array([math.nan, 1.0]), list("ab"))[0])


def test_colour_cast():
    grey, red = np.full((1, 3, 8, 8), 0.5), np.zeros((1, 3, 8, 8))
    red[:, 0] = 1
    assert measure(grey)["colour_cast"][0] == 0
    assert measure(red)["colour_cast"][0] == pytest.approx(math.sqrt(2) / 3)


def test_a_mean_with_students_interval():
    """n = 5, standard deviation 1.5811, t(4, 0.975) = 2.7764."""
    found = mean_over([1, 2, 3, 4, 5, None])
    assert (found.n, found.missing, found.value) == (5, 1, 3)
    assert found.high - 3 == pytest.approx(2.77645 * 1.58114 / math.sqrt(5), abs=1e-4) and found.low + found.high == 6
    assert math.isnan(mean_over([2.0]).low) and mean_over([]).n == 0


def test_a_sheet_is_small_and_in_order():
    pictures = np.zeros((10, 1024, 512, 3), np.uint8)
    pictures[8] = 255
    found = sheet(pictures)
    assert found.size == (8 * 128, 2 * 256)
    assert found.getpixel((64, 256 + 128)) == (255, 255, 255) and found.getpixel((64, 128)) == (0, 0, 0)


def fabricated_records(alarm_from=40):
    records = []
    for step in range(0, 61, 10):
        moved = ["saturation"] if step >= alarm_from else []
        found = {"saturation": reading(step / 8), "contrast": reading(math.sin(step)), "reward": reading(step / 6)}
        intervals = {
            "reward/taste": {"n": 24, "mean": 0.4 + step / 200, "low": 0.35 + step / 200, "high": 0.45 + step / 200},
            "swapped/taste": {"n": 24, "mean": 0.2, "low": 0.15, "high": 0.25},
            "truth/exact": {"n": 24, "mean": 0.4 - step / 400, "low": 0.3 - step / 400, "high": 0.5 - step / 400},
        }
        statistics = {name: asdict(one) for name, one in found.items()}
        alarms = {"prompt-free reward": moved} if moved else {}
        records.append(
            {"step": step, "statistics": statistics, "intervals": intervals, "moved": moved, "alarms": alarms}
            | ({"velocity_distance": step / 300} if step else {})
        )
    return records


def test_the_chart_marks_what_moved(tmp_path):
    records = fabricated_records()
    names = ["reward/taste", "truth/exact", "reward", "saturation", "contrast", "velocity_distance"]
    assert panels(records) == names
    quiet = monitor_curves(fabricated_records(alarm_from=99), ["saturation"])
    assert monitor_curves(records, ["saturation"]) != quiet and b"<svg" in quiet
    assert Image.open(io.BytesIO(monitor_curves(records, form="png"))).width > 800
    assert b"<svg" in monitor_curves([])
    assert write_monitor_chart(tmp_path) is None and not list(tmp_path.iterdir())
    (tmp_path / "monitor.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert write_monitor_chart(tmp_path).name == "monitor.png"


def test_the_report_shows_what_the_monitor_saw():
    summary, _ = fabricated_summary(20)
    page = render_report(summary, watched=fabricated_records())
    assert "What the monitor saw" in page and "Alarm at step 40: prompt-free reward." in page
    assert "saturation of the fixed prompts over training steps" in page
    quiet = render_report(summary, watched=fabricated_records(alarm_from=99))
    assert "No alarm was raised." in quiet and "Alarm at step" not in quiet
    assert "What the monitor saw" not in render_report(summary)
