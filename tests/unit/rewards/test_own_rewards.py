"""Rewards of a user's own Python file, from the line in the config to the score."""

import math
from pathlib import Path

import pytest
import torch

from tastemaker.config import TrainConfig, check_judges, parse
from tastemaker.errors import UserMistake
from tastemaker.named.judges import check_rewards, opened_rewards
from tastemaker.rewards.own import open_own
from tastemaker.rewards.reward import fingerprints, score_all
from tastemaker.types import Prompt

CONFIG = """\
name: own
model: miniature
data: {prompts: miniature}
rewards:
- {name: light, high: 2, floor: 0.1, judge: {kind: python, path: mine.py, call: Light, options: {times: 2}}}
"""
MINE = '''\
"""Two rewards."""
import torch
from helper import half

def brightness(images, prompts, power=1.0):
    return images.mean((1, 2, 3)) ** power

def by_length(images, prompts):
    return [None if not prompt.text else len(prompt.text) / 10 for prompt in prompts]

class Light:
    made = 0
    def __init__(self, times, device):
        self.times, self.device = times, device
        Light.made += 1
    def __call__(self, images, prompts):
        assert isinstance(self.device, torch.device)  # nobody set it: it is the run's
        return half(2 * self.times * images.mean((1, 2, 3)))

class Silent:
    pass

def broken(images, prompts):
    raise ZeroDivisionError("no light")
'''
IMAGES = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
PROMPTS = [Prompt("a", ""), Prompt("b", "five!")]
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("def half(value):\n    return value / 2\n")
    return tmp_path


def called(folder, text):
    config = parse(CONFIG.replace("{kind: python, path: mine.py, call: Light, options: {times: 2}}", text), TrainConfig)
    with opened_rewards(config, folder, CPU) as rewards:
        return score_all([*rewards.values()], IMAGES, PROMPTS)


def test_a_class_is_made_once_and_called(folder):
    config = parse(CONFIG, TrainConfig)
    check_rewards(config, folder)
    with opened_rewards(config, folder, CPU) as rewards:
        reward = rewards["light"]
        assert (reward.name, reward.low, reward.high, reward.floor) == ("light", 0, 2, 0.1)
        scores = [reward.score(IMAGES, PROMPTS) for _ in range(2)]
    assert scores == [[0.0, 2.0]] * 2 and type(reward.call).made == 1


def test_a_function_takes_its_options(folder):
    found = called(folder, "{kind: python, path: mine.py, call: brightness, options: {power: 2}}")
    assert found.values_BR.flatten().tolist() == [0.0, 1.0]


def test_none_and_what_is_out_of_range_are_missing(folder):
    found = called(folder, "{kind: python, path: mine.py, call: by_length}")
    assert math.isnan(found.values_BR[0, 0]) and "None" in found.missing[0, "light"] and float(found.values_BR[1, 0]) == 0.5
    (folder / "mine.py").write_text("def far(images, prompts):\n    return [7, float('nan')]\n")
    found = called(folder, "{kind: python, path: mine.py, call: far}")
    assert "outside" in found.missing[0, "light"] and "nan" in found.missing[1, "light"]


def test_the_fingerprint_follows_the_file_and_the_options(folder):
    marks = [open_own(folder / "mine.py", "brightness", options, CPU)[1] for options in ({}, {"power": 2}, {})]
    (folder / "mine.py").write_text(MINE.replace("** power", "** power / 2"))
    call, changed = open_own(folder / "mine.py", "brightness", {}, CPU)
    assert marks[0] == marks[2] and len({*marks, changed}) == 3
    assert call(IMAGES, PROMPTS).tolist() == [0.0, 0.5]  # the text that is there now is what runs
    with opened_rewards(parse(CONFIG, TrainConfig), folder, CPU) as rewards:
        assert [*fingerprints([*rewards.values()])] == ["light"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("path: mine.py", "path: other.py"), r"rewards\.0\.judge\.path: there is no Python file .*other\.py"),
        (("call: Light", "call: Lihgt"), r"rewards\.0\.judge\.call: .*mine\.py defines no Lihgt; did you mean `Light`\?"),
        (("path: mine.py", "path: helper.txt"), r"rewards\.0\.judge\.path: there is no Python file"),
        (("path: mine.py", "path: torn.py"), r"rewards\.0\.judge\.path: .*torn\.py is no Python that can be read: .*line 1"),
    ],
)
def test_what_is_not_there_is_said_without_running_the_file(folder, change, line):
    (folder / "helper.txt").write_text("")
    (folder / "torn.py").write_text("def half(:\n")
    (folder / "mine.py").write_text(MINE + "\nraise SystemExit('it was run')\n")
    with pytest.raises(UserMistake, match=line):
        check_judges(parse(CONFIG.replace(*change), TrainConfig).judges, folder)


def test_names_that_a_file_may_bind_are_found(folder):
    (folder / "mine.py").write_text(
        "from helper import half as Light\ntry:\n    import helper\n"
        "except ImportError:\n    def other(): ...\nmade = half = 1\n"
    )
    for name in ("Light", "other", "made", "helper"):
        check_judges(parse(CONFIG.replace("call: Light", f"call: {name}"), TrainConfig).judges, folder)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{kind: python, path: mine.py, call: Light}", "options: Light of .* has to take the options alone: missing .*'times'"),
        ("{kind: python, path: mine.py, call: brightness, options: {powr: 2}}", "options: brightness .*'powr'"),
        ("{kind: python, path: mine.py, call: Silent}", r"an object of Silent .* cannot be called; .*__call__"),
        ("{kind: python, path: mine.py, call: broken}", r"reward 'light': .*mine\.py, line 24: ZeroDivisionError: no light"),
        ("{kind: python, path: helper.py, call: half}", "options: half of .* has to take images, prompts and the options"),
        ("{kind: python, path: failing.py, call: one}", r"path: .*failing\.py, line 2: ValueError: not today"),
        ("{kind: python, path: words.py, call: words}", r"gave list .*; give a number or None for each of the 2 pictures"),
        ("{kind: python, path: few.py, call: few}", r"gave Tensor \(of 1\); give a number or None for each of the 2 pictures"),
        ("{kind: python, path: words.py, call: count}", r"gave int .*; give a number or None for each of the 2 pictures"),
    ],
)
def test_every_mistake_is_one_line_with_its_place(folder, text, line):
    (folder / "few.py").write_text("def few(images, prompts):\n    return images.mean((1, 2, 3))[:1]\n")
    (folder / "failing.py").write_text("one = print\nraise ValueError('not today')\n")
    (folder / "words.py").write_text(
        "def words(images, prompts):\n    return ['good', 'bad']\ndef count(i, p):\n    return 2\n"
    )
    with pytest.raises(UserMistake, match=line) as caught:
        called(folder, text)
    assert "\n" not in str(caught.value)


def test_a_path_from_here_tells_the_line_too(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "mine.py").write_text("def dark(images, prompts):\n    return images.men()\n")
    with pytest.raises(UserMistake, match=r"^reward 'light': mine\.py, line 2: AttributeError"):
        called(Path(), "{kind: python, path: mine.py, call: dark}")


def test_options_are_part_of_the_settings():
    judge = parse(CONFIG, TrainConfig).rewards[0].judge
    assert judge.options == {"times": 2}
    with pytest.raises(UserMistake, match="call"):
        parse(CONFIG.replace("call: Light", "call: a.b"), TrainConfig)
