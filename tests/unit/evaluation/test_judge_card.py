"""The judge card: its numbers against scipy and by hand, and what it says when there is nothing to say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops
from scipy.stats import spearmanr

from tastemaker.data.ratings import Rating
from tastemaker.data.votes import Side, Vote
from tastemaker.errors import UserMistake
from tastemaker.evaluation.judge_card import as_markdown, make_card, read_card, write_card
from tastemaker.evaluation.judge_measures import HEADINGS, measure, num_questions
from tastemaker.evaluation.lettering import lettered
from tastemaker.rewards.judge import Answer
from tastemaker.rewards.reward import Missing
from tastemaker.training.reward_data import Part, StoredQuestion

DRAWN = {"resamples": 100}


class Brightness:
    """Scores a picture by its mean, 1 to 5; has none for a picture that is nearly black. Keeps what it was asked."""

    name, low, high, fingerprint = "light", 1.0, 5.0, "x"

    def __init__(self):
        self.asked: list[str] = []

    def answer(self, questions):
        self.asked += [question.text for question in questions]
        means = [float(np.mean(question.picture)) / 255 for question in questions]
        return [Answer(q.id, Missing("too dark") if m < 0.02 else 1 + 4 * m) for q, m in zip(questions, means, strict=True)]


@pytest.fixture
def part(tmp_path):
    """Six prompts of three pictures; what people say is their brightness with one swap in each second prompt."""

    def made(prefix: str, dark: bool = False) -> Part:
        ratings, votes = [], []
        for prompt in range(6):
            levels, given = [0.2, 0.5, 0.8], [1, 3, 5] if prompt % 2 else [3, 1, 5]
            names = []
            for nth, (level, score) in enumerate(zip(levels, given, strict=True)):
                path = tmp_path / f"{prefix}{prompt}{nth}.png"
                value = 0 if dark and (prompt, nth) == (0, 0) else int(255 * level) + prompt
                Image.new("RGB", (8, 8), (value, value, value)).save(path)
                scores = {"ann": score, "bo": min(score + nth % 2, 5)}
                ratings.append(Rating(f"{prefix}{prompt}{nth}", str(path), f"{prefix}{prompt}", "light", scores))
                names.append(str(path))
            for rater, choice in (("ann", "right"), ("bo", "left" if prompt == 0 else "right")):
                votes.append(
                    Vote(f"{prefix}{prompt}{rater}", f"{prefix}{prompt}", rater, choice, Side(names[0]), Side(names[2]))
                )
        return Part(tuple(ratings), tuple(votes))

    return made


ABOUT = {
    "name": "light",
    "base": {"name": "vlm", "files": {}},
    "rubric": {"label": "light.v1", "sha256": "r"},
    "read_out": {"chain_of_thought": False, "min_mass": 0.9},
    "model": {"sha256": "m", "fingerprint": "f", "precision": "float32", "whole": True},
    "steps": 10,
    "examples": 100,
    "objective": {"kind": "pointwise"},
    "data": {"files": {"r.jsonl": "d"}, "dimension": "light", "task": None, "apart": ["prompt"], "left_out": {}, "parts": {}},
    "versions": {"torch": "2"},
}


def test_the_numbers_are_scipys_and_counted_by_hand(part):
    judge, test, calibration = Brightness(), part("t"), part("c")
    heard: list[int] = []
    found = measure(judge, test, calibration, batch=4, num_lettered=7, told=heard.append, **DRAWN)
    assert set(found.numbers) == set(HEADINGS)
    said = [1 + 4 * np.mean(Image.open(rating.picture)) / 255 for rating in test.ratings]
    people = [rating.mean for rating in test.ratings]
    value = {name: number.value for name, number in found.numbers.items()}
    assert value["across_prompts.spearman"] == pytest.approx(spearmanr(said, people).statistic)
    each = [spearmanr(said[at : at + 3], people[at : at + 3]).statistic for at in range(0, 18, 3)]
    assert value["within_prompts.spearman"] == pytest.approx(np.mean(each))
    assert value["votes.as_shown"] == value["votes.exchanged"] == value["votes.both"] == pytest.approx(11 / 12)
    assert value["votes.consistent"] == 1.0 and value["votes.left_bias"] == 0.0
    wrong = sum(1 for at in range(0, 18, 3) for a, b in ((0, 1), (0, 2), (1, 2)) if people[at + a] > people[at + b])
    assert value["rated_pairs.as_shown"] == pytest.approx(1 - wrong / 18)
    assert value["calibration.after"] <= value["calibration.before"]
    assert found.numbers["votes.both"].n == 12 and found.numbers["across_prompts.spearman"].n == 18
    assert sum(heard) == len(judge.asked) == num_questions(test, calibration, 7) == 54 + 2 * 7


def test_the_second_time_everything_of_the_test_part_is_asked_in_reverse(part):
    judge, again = Brightness(), Brightness()
    measure(judge, part("t"), part("c"), again=again, **DRAWN)
    assert again.asked == judge.asked[-18:][::-1] and {text[0] for text in again.asked} == {"t"}


def test_a_missing_score_is_counted_and_never_a_number(part):
    found = measure(Brightness(), part("t", dark=True), part("c"), **DRAWN)
    assert found.missing == {"too dark": 1}
    assert found.numbers["across_prompts.spearman"].n == 17 and found.numbers["across_prompts.spearman"].missing == 1
    assert found.numbers["votes.as_shown"].missing == 2 and found.numbers["raters.ratings"].n == 18
    text = as_markdown(make_card(found, ABOUT))
    assert "1 test pictures have no score: too dark." in text and "nan" not in text


def test_a_judge_that_never_scores_has_a_card_without_numbers(part):
    class Silent(Brightness):
        def answer(self, questions):
            return [Answer(question.id, Missing("silent")) for question in questions]

    card = make_card(measure(Silent(), part("t"), part("c"), **DRAWN), ABOUT)
    assert card["measured"]["across_prompts.spearman"]["value"] is None and card["missing"] == {"silent": 18}
    assert "calibration.after" not in card["measured"]
    assert "not measured" in as_markdown(card) and json.loads(json.dumps(card, allow_nan=False)) == card


def digits(picture: Image.Image) -> int | None:
    """Which score is drawn on a grey picture: the one whose lettering it has; None for a plain one."""
    plain = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    return next((score for score in (1, 5) if lettered(plain, score).tobytes() == picture.tobytes()), None)


class Reader(Brightness):
    """Scores by brightness, or where it `obeys` by what is written on the picture."""

    def __init__(self, obeys: bool):
        super().__init__()
        self.obeys = obeys

    def answer(self, questions):
        self.asked += [f"{digits(question.picture)}" for question in questions]
        seen = [1 + 3 * float(np.mean(question.picture)) / 255 for question in questions]
        read = [digits(question.picture) if self.obeys else None for question in questions]
        return [Answer(q.id, float(r or s)) for q, s, r in zip(questions, seen, read, strict=True)]


def test_lettering_in_the_picture_is_a_canary(part, tmp_path):
    test = part("t")
    for rating in test.ratings:  # room for letters
        Image.open(rating.picture).resize((64, 64)).save(rating.picture)
    obeys, sees = Reader(True), Reader(False)
    found = [measure(judge, test, Part(), num_lettered=12, **DRAWN).numbers for judge in (obeys, sees)]
    assert obeys.asked[-24:] == ["5"] * 12 + ["1"] * 12 and set(obeys.asked[:-24]) == {"None"}
    shift, obeyed = found[0]["lettering.shift"], found[0]["lettering.obeyed"]
    assert obeyed.value == 4 and shift.value > 2 and shift.low > 1 and shift.n == 12 and 2 <= shift.num_prompts <= 6
    shift, obeyed = found[1]["lettering.shift"], found[1]["lettering.obeyed"]
    assert shift.value < 0.5 and -0.05 < obeyed.low <= obeyed.value <= obeyed.high < 0.05, "letters are bright, 5 as 1"
    assert not [name for name in measure(sees, test, Part(), **DRAWN).numbers if name.startswith("lettering")]
    card = make_card(measure(obeys, test, Part(), num_lettered=12, **DRAWN), ABOUT)
    assert "| score with 5/5 in the picture, less with 1/5 | 4.000 |" in as_markdown(card) and "A canary" in as_markdown(card)


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (640, 80), (30, 400), (1024, 768)])
def test_lettering_fits_any_picture_and_leaves_the_original(size):
    picture = Image.new("RGB", size, "gray")
    changed = lettered(picture, 5)
    assert changed.size == size and picture.getcolors() == [(size[0] * size[1], (128, 128, 128))]
    left, top, right, bottom = ImageChops.difference(changed, picture).getbbox()
    if min(size) >= 64:
        assert left > 0 and top > size[1] / 3 and right < size[0] and bottom <= size[1] and changed != lettered(picture, 1)


def test_votes_of_one_pair_belong_together_whichever_side_a_picture_was_on(part):
    test = part("t")
    choice = {"left": "right", "right": "left"}
    turned = [replace(v, left=v.right, right=v.left, choice=choice[v.choice]) if v.rater == "bo" else v for v in test.votes]
    found = [measure(Brightness(), Part((), tuple(votes)), Part(), **DRAWN) for votes in (test.votes, turned)]
    assert found[0].numbers["raters.votes"].value == pytest.approx(found[1].numbers["raters.votes"].value)
    assert found[0].numbers["votes.as_shown"].value == pytest.approx(found[1].numbers["votes.as_shown"].value)
    assert not [name for name in found[0].numbers if not name.startswith(("vote", "raters.votes"))]


def test_the_card_is_read_back_and_says_what_it_does_not_know(part, tmp_path):
    card = make_card(measure(Brightness(), part("t"), Part(), **DRAWN), ABOUT)
    assert read_card(tmp_path) is None
    write_card(tmp_path, card)
    assert read_card(tmp_path) == json.loads(json.dumps(card))
    text = (tmp_path / "README.md").read_text()
    for words in ("not recalibrated", "Its generators may have been seen", "Fewer than 20 prompts", "light.v1", "`f`"):
        assert words in text
    (tmp_path / "card.json").write_text("[]")
    with pytest.raises(UserMistake, match="not an object"):
        read_card(tmp_path)


def test_pictures_are_opened_when_they_are_looked_at(tmp_path):
    asked = StoredQuestion("q", "x", str(tmp_path / "later.png"), [str(tmp_path / "source.png")])
    assert len(asked.sources) == 1
    with pytest.raises(UserMistake, match=r"source\.png"):
        list(asked.sources)
    Image.new("RGB", (8, 8)).save(tmp_path / "later.png")
    assert asked.picture.size == (8, 8) and asked.id == "q" and asked.text == "x"
