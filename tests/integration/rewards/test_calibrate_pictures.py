"""`tastemaker calibrate` on votes as people cast them, on pictures, which the rewards of a config judge."""

import json

import numpy as np
import pytest
from PIL import Image

from tastemaker.commands.calibrate import calibrate
from tastemaker.commands.scored_votes import score_items
from tastemaker.config import TrainConfig, parse
from tastemaker.data.votes import Side, Vote, write_votes
from tastemaker.errors import UserMistake
from tastemaker.rewards.composite import Composite
from tastemaker.rewards.reward import NotAsked
from tastemaker.types import Prompt

SETTINGS = """\
name: looks
model: miniature
threads: 1
data: {prompts: miniature}
rewards:
- {name: light, weight: 0.5, judge: {kind: python, path: judges.py, call: light}}
- {name: red, weight: 0.5, low: 1, high: 5, judge: {kind: python, path: judges.py, call: red}}
categories:
  landscape: {light: 1}
"""
JUDGES = """\
from pathlib import Path

def light(images, prompts):
    with Path(__file__).with_name("asked").open("a") as asked:
        asked.writelines(f"{prompt.text}\\n" for prompt in prompts)
    return [None if prompt.text == "fog" else value for prompt, value in zip(prompts, images[:, 1].mean((1, 2)).tolist())]

def red(images, prompts):
    assert all(prompt.category != "landscape" for prompt in prompts)
    return 1 + 4 * images[:, 0].mean((1, 2))
"""


@pytest.fixture
def world(tmp_path):
    """Portraits are chosen by red, all else by light; two sizes of pictures, and a picture that stands in two votes."""
    (tmp_path / "run.yaml").write_text(SETTINGS)
    (tmp_path / "judges.py").write_text(JUDGES)
    rng, votes = np.random.default_rng(0), []
    for n in range(36):
        category, colours = ("general", "portrait", "landscape")[n % 3], rng.integers(0, 256, (2, 3))
        for side, colour in zip("ab", colours, strict=True):
            Image.new("RGB", (16, 16 + 8 * (n % 2)), tuple(map(int, colour))).save(tmp_path / f"{n}{side}.png")
        channel = 0 if category == "portrait" else 1
        choice = "left" if colours[0, channel] > colours[1, channel] else "right"
        sides = Side(f"{tmp_path}/{n}a.png"), Side(f"{tmp_path}/{n}b.png")
        votes.append(Vote(f"v{n}", f"picture {n}", "ann", choice, *sides, category=category))
    votes.append(Vote("again", "picture 0", "bo", votes[0].choice, votes[0].left, votes[0].right))
    votes.append(Vote("invalid", "picture 1", "bo", "left", Side(votes[1].left.picture, valid=False), votes[1].right))
    write_votes(tmp_path / "votes.jsonl", votes)
    return tmp_path


def fitted(folder, **changes):
    options = {"config": folder / "run.yaml", "strength": 1, "resamples": 100, "seed": 0, **changes}
    return calibrate(folder / "votes.jsonl", **options)


def test_votes_on_pictures_are_judged_once_and_fitted(world, capsys):
    out = fitted(world)
    shown, asked = capsys.readouterr().out, (world / "asked").read_text().splitlines()
    assert len(asked) == 72 and "left out: 1 votes, a side of the pair was called invalid" in shown
    assert "judged 72 of 72 pictures" in shown and "37" in shown
    config = parse("name: a\nmodel: m\ndata: {prompts: p}\n" + out.read_text(), TrainConfig)
    assert {reward.name: (reward.low, reward.high) for reward in config.rewards} == {"light": (0, 1), "red": (1, 5)}
    assert config.categories["landscape"] == {"light": 1.0}, "red is not asked about landscapes"
    first = out.read_text()
    assert fitted(world).read_text() == first and len((world / "asked").read_text().splitlines()) == 72
    (world / "judges.py").write_text(JUDGES + "# another judge\n")
    assert fitted(world).read_text() == first and len((world / "asked").read_text().splitlines()) == 144


def test_a_missing_score_is_not_kept_and_takes_its_vote_out(world, capsys):
    rows = [json.loads(line) for line in (world / "votes.jsonl").read_text().splitlines()]
    rows[3]["prompt"] = "fog"
    (world / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fitted(world)
    assert "without a score: " in capsys.readouterr().out
    fitted(world)
    asked = (world / "asked").read_text().splitlines()
    assert asked.count("fog") == 4 and len(asked) == 74 and len((world / "votes.scores.jsonl").read_text().splitlines()) == 70


def test_an_edit_has_a_category_of_its_own_and_its_sources_are_part_of_its_prompt(world):
    rows = [json.loads(line) for line in (world / "votes.jsonl").read_text().splitlines()]
    for nth, row in enumerate(rows[:2]):
        row.update(prompt="redder", category="portrait", task="edit", sources=[f"{nth + 4}a.png"])
    (world / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = fitted(world).read_text()
    assert '"edit/portrait" takes the weights above; 2 votes on 2 prompts' in text


class OfPeople:
    """Has nothing to say of a prompt without people."""

    name, low, high, floor, times = "people", 0.0, 1.0, 0.0, 0

    def score(self, images, prompts):
        self.times += 1
        return [0.5 if "people" in prompt.text else NotAsked("nobody is there") for prompt in prompts]


def test_what_a_judge_does_not_judge_is_none_and_not_asked_again(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    items = [(Prompt(text, text), f"{tmp_path}/a.png") for text in ("people", "hills")]
    reward = OfPeople()
    for _ in range(2):
        found = score_items(items, Composite((reward,), (1.0,)), tmp_path / "scores.jsonl")
        assert [found[item] for item in items] == [{"people": 0.5}, {"people": None}] and reward.times == 1


@pytest.mark.parametrize(
    "change, says",
    [
        ({"config": None}, "votes on pictures, without scores; name the judges with --config"),
        ("rewards: [{name: facts}]\n", "rewards.0: 'facts' reads a prompt's truth, which votes do not hold"),
        ("category", "votes.jsonl: v1: category 'portrait', but v0 on this prompt has 'general'; it has one"),
    ],
)
def test_what_cannot_be_is_told_before_a_picture_is_judged(world, change, says):
    if change == "category":
        text = (world / "votes.jsonl").read_text()
        (world / "votes.jsonl").write_text(text.replace("picture 0", "picture 1"))
    elif isinstance(change, str):
        (world / "run.yaml").write_text(SETTINGS.partition("rewards:")[0] + change)
    with pytest.raises(UserMistake) as caught:
        fitted(world, **(change if isinstance(change, dict) else {}))
    assert says in str(caught.value) and not (world / "asked").exists()
