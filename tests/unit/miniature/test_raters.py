"""Simulated raters: truth by the rubrics' steps, raters that differ, files that the real readers take, the same by seed."""

from dataclasses import replace

import numpy as np
import pytest

from tastemaker.data.ratings import read_ratings
from tastemaker.data.votes import read_votes
from tastemaker.errors import UserMistake
from tastemaker.miniature.oracle.reading import EditReading, Fact
from tastemaker.miniature.raters import collect, drawings, panel, truth
from tastemaker.miniature.raters.corruptions import WAYS, blur, spoil
from tastemaker.miniature.raters.rationale import WORDS, reason
from tastemaker.miniature.raters.taste import pleasing
from tastemaker.miniature.raters.truth import Truth, truth_of
from tastemaker.miniature.world.description import General, Thing
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import Item, split_of

RELATED = General((Thing("circle", "red"), Thing("square", "blue")), "left of")
ITEM = Item("i0", "a red circle left of a blue square", RELATED)


def facts(**verdicts):
    return [Fact(name.replace("_", " "), held, float(held)) for name, held in verdicts.items()]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "verdicts, score",
    [
        ({"object_1_shape": True, "object_1_colour": True, "relation": True}, 5.0),
        ({"object_1_shape": True, "object_1_colour": True, "relation": False}, 3.0),  # the prompt is about the relation
        ({"object_1_shape": True, "object_1_colour": False, "relation": True}, 3.0),
        ({"object_1_shape": True, "object_1_colour": False, "relation": False}, 2.5),
        ({"object_1_shape": True, "object_2_shape": False, "object_1_colour": True}, 2.0),
        ({"object_1_shape": False, "object_2_shape": False, "object_1_colour": True}, 1.0),
    ],
)
def test_a_failure_high_up_caps_the_alignment(verdicts, score):
    assert truth.alignment(facts(**verdicts), RELATED) == score


def test_only_an_action_that_is_wrong_leaves_a_four():
    assert truth.alignment(facts(skin=True, hair_style=True, smile=False), RELATED) == 4.0


@pytest.mark.parametrize("quality, fidelity, score", [(5, 5, 5), (5, 3, 4), (5, 1, 2), (2, 4, 3)])
def test_aesthetic_is_the_mean_but_near_the_lower(quality, fidelity, score):
    assert truth.aesthetic(quality, fidelity) == score


def test_the_steps_of_an_instruction():
    def score(core, rest, preserved, changed=True):
        found = tuple(facts(core=core, rest=rest))
        reading = EditReading(found, core and rest, 0.0, preserved, preserved >= 0.5, None, False)
        return truth.instruction(reading, frozenset({"core"}), frozenset({"core"}), changed)

    untouched, missed = score(False, True, 1.0, changed=False), score(False, True, 1.0)
    lost, slips, perfect = score(True, True, 0.1), score(True, True, 0.6), score(True, True, 1.0)
    assert untouched == 1 < missed < 2 < lost <= 3.75 < 4 < slips < perfect == 5
    assert 2.5 <= score(True, False, 1.0) < 4


def test_the_truth_of_pictures():
    picture = render(RELATED, sample_layout(RELATED, rng()))
    true, dull = truth_of(ITEM, picture), truth_of(ITEM, blur(picture, 1.0, rng()))
    assert true.scores["alignment"] == 5.0 and {*true.scores} == {"alignment", "quality", "fidelity", "aesthetic"}
    assert dull.scores["quality"] < true.scores["quality"] - 1
    swapped = General(RELATED.things, "right of")
    wrong = truth_of(ITEM, render(swapped, sample_layout(swapped, rng())))
    assert wrong.scores["alignment"] == 3.0
    things = "first colour right shape right second colour right shape right"
    rest = "extra objects right style right relation wrong , six of seven facts hold"
    assert reason(wrong, "alignment") == f"{things} {rest}"
    assert all(1 <= score <= 5 for one in (true, dull, wrong) for score in one.scores.values())
    assert 0 <= pleasing(picture.astype(np.float32)) <= 1


def test_reasons_keep_to_their_words():
    told = Truth({"quality": 3.2, "fidelity": 4.4}, tuple(facts(object_2_colour=False, style=True)), {"eyes": 0.1}, kept=0.3)
    reasons = [reason(told, name) for name in ("alignment", "instruction", "portrait", "aesthetic")]
    assert reasons[0] == "second colour wrong style right , one of two facts hold"
    assert reasons[1] == "second colour wrong style right , one of two changes made , the rest is partly kept"
    assert reasons[2:] == ["eyes missing", "quality three , fidelity four"]
    assert {word for text in reasons for word in text.split()} <= {*WORDS, ","}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_spoiling_changes_the_picture_and_follows_its_seed(way):
    picture = rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # no place in it is empty
    spoilt = WAYS[way](picture, 1.0, rng(3))
    assert spoilt.shape == (64, 64, 3) and spoilt.dtype == np.uint8 and not np.array_equal(spoilt, picture)
    assert np.array_equal(spoilt, WAYS[way](picture, 1.0, rng(3)))


def test_training_pictures_show_nothing_reserved():
    for seed in range(40):
        other = drawings.changed(RELATED, "train", rng(seed))
        assert other == RELATED or split_of(other) == "train"
    names = [name for name, _ in drawings.drawn(ITEM, 5, "train", rng())]
    assert names[0] == "world" and len(names) == 5
    assert spoil(np.zeros((64, 64, 3), np.uint8), "portrait", rng())[1] in WAYS


def test_half_of_what_nothing_spoilt_is_worn_and_the_first_picture_never():
    sets = [drawings.drawn(ITEM, 6, "train", rng(seed)) for seed in range(40)]
    assert {some[0][0] for some in sets} == {"world"}
    names = [name for some in sets for name, _ in some[1:] if not name.startswith("spoilt")]
    assert 0.35 < np.mean([name.endswith("-worn") for name in names]) < 0.65


def test_raters_differ_and_follow_the_seed():
    raters = panel.panel(9, 0)
    assert raters == panel.panel(9, 0) != panel.panel(9, 1)
    assert abs(sum(rater.severity for rater in raters)) < 1e-9 and len({rater.noise for rater in raters}) == 9
    chosen = panel.chosen(raters, 3, 0, "a.png")
    assert chosen == panel.chosen(raters, 3, 0, "a.png") and len({rater.name for rater in chosen}) == 3
    with pytest.raises(ValueError, match="enlarge the panel"):
        panel.chosen(raters, 10, 0, "a.png")
    good, bad = (Truth({"alignment": value}, (), {}) for value in (4.6, 1.6))
    scores = {
        one: [panel.score(r, told, "alignment", "general", f"{n}.png", 0) for r in raters for n in range(20)]
        for one, told in (("good", good), ("bad", bad))
    }
    assert {*scores["good"], *scores["bad"]} <= {1, 2, 3, 4, 5}
    assert np.mean(scores["good"]) > np.mean(scores["bad"]) + 2


def test_a_pair_is_decided_by_the_first_priority_that_differs():
    quiet = replace(panel.panel(9, 0)[0], noise=0.0)
    true = Truth({"alignment": 5.0, "fidelity": 1.0, "quality": 1.0, "aesthetic": 1.0}, (), {})
    pretty = Truth({"alignment": 2.0, "fidelity": 5.0, "quality": 5.0, "aesthetic": 5.0}, (), {})
    whole = Truth({"alignment": 4.8, "fidelity": 4.0, "quality": 1.0, "aesthetic": 1.0}, (), {})
    assert panel.choice(quiet, ("a", true), ("b", pretty), 0) == "left"
    assert panel.choice(quiet, ("b", pretty), ("a", true), 0) == "right"
    assert panel.choice(quiet, ("a", true), ("c", whole), 0) == "right"
    assert panel.choice(quiet, ("a", true), ("d", true), 0) == "tie"


def test_a_sitting_is_written_as_the_readers_want_it_and_resumes_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "items_of", lambda task, sitting: [ITEM, replace(ITEM, id="i1")] if task == "t2i" else [])
    monkeypatch.setattr(collect, "PART", 1)
    sitting = collect.Sitting(t2i=2, edits=0, pictures=3, base=0.0)
    one, two = (collect.collect(tmp_path / name, sitting) for name in ("one", "two"))
    ratings, votes = read_ratings(one / collect.RATINGS, decode=True), read_votes(one / collect.VOTES)
    assert len(ratings) == 2 * 3 * 4 and all(len(rating.scores) == 3 and rating.rationale for rating in ratings)
    assert len(votes) == 2 * 2 * 3 and all(vote.left.valid is not None for vote in votes)
    before = {path.name: path.read_bytes() for path in two.glob("*.jsonl")}
    (two / collect.TRUTH).unlink()
    (two / "parts" / "00001.json").unlink()
    collect.collect(two, sitting)
    assert before == {path.name: path.read_bytes() for path in two.glob("*.jsonl")}
    assert before == {path.name: path.read_bytes() for path in one.glob("*.jsonl")}
    with pytest.raises(UserMistake, match="holds another sitting"):
        collect.collect(one, replace(sitting, seed=1))


def test_sittings_that_cannot_be_are_refused():
    with pytest.raises(UserMistake, match="at least 3"):
        collect.Sitting(raters=2)
    with pytest.raises(UserMistake, match="held out"):
        collect.Sitting(split="eval", t2i=5000)
    with pytest.raises(UserMistake, match="base 0"):
        collect.Sitting(pictures=4, base=0.6)
