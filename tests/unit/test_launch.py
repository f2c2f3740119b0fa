"""From the names in a config to what they stand for."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tastemaker.config import ReadOutConfig, TrainConfig, check_judges, load, parse
from tastemaker.config.judges import shipped_rubrics
from tastemaker.errors import UserMistake
from tastemaker.launch import check_categories, check_rewards, remote_judge
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.rubrics import shipped
from tastemaker.rewards.service import Limits
from tastemaker.types import Prompt

ROOT = Path(__file__).parents[2]

CONFIG = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: facts, weight: 1, gates: [{reward: quality, below: 0.5, cap: 0.5, categories: [landscapes, general]}]}
- {name: quality, weight: 0}
categories:
  portrait: {facts: 1}
  typografy: {facts: 0.5, quality: 0.5}
  cats: {quality: 1}
"""


def prompts(*categories):
    return [Prompt(str(n), "x", category) for n, category in enumerate(categories)]


def test_categories_that_look_misspelt_are_all_refused_at_once():
    config = parse(CONFIG, TrainConfig)
    with pytest.raises(UserMistake) as caught:
        check_categories(config, prompts("portrait", "typography", "landscape", "general"))
    assert str(caught.value).splitlines() == [
        "categories.typografy: 'typografy' is the category of no prompt, did you mean `typography`?",
        "rewards.0.gates.0.categories.0: 'landscapes' is the category of no prompt, did you mean `landscape`?",
    ]


def test_a_category_that_only_these_prompts_lack_is_fine():
    check_categories(parse(CONFIG, TrainConfig), prompts("portrait", "general"))


CHAT = """\
name: first
model: miniature
data: {prompts: miniature}
rewards:
- {name: fakts, weight: 0.5}
- name: taste
  weight: 0.5
  low: 1
  high: 5
  judge: {kind: chat, url: "http://gpu:8000/v1", model: m, rubric: mine.v1.md, token_variable: TASTEMAKER_NO_SUCH_TOKEN}
"""


def test_all_mistakes_of_rewards_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("TASTEMAKER_NO_SUCH_TOKEN", raising=False)
    (tmp_path / "mine.v1.md").write_text("[[picture]]\n[[request]]\n")
    with pytest.raises(UserMistake) as caught:
        check_rewards(parse(CHAT, TrainConfig), tmp_path)
    assert str(caught.value).splitlines() == [
        "rewards.0.name: 'fakts' is not built in (there are facts, quality); give it a judge",
        "rewards.1.judge: the environment variable TASTEMAKER_NO_SUCH_TOKEN holds no token for http://gpu:8000/v1; set it",
        "rewards.1.judge.rubric: rubric mine.v1: [[answer]] is missing; see the shipped ones",
    ]


def test_a_chat_judge_is_what_its_settings_say(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_NO_SUCH_TOKEN", "a-token-of-the-tests")
    (tmp_path / "mine.v1.md").write_text("[[picture]]\n[[request]]\n[[answer]]\n")
    config = parse(CHAT, TrainConfig, ["rewards.1.judge.read_out={chain_of_thought: false}", "rewards.0.name=facts"])
    check_rewards(config, tmp_path)
    judge = remote_judge(config.rewards[1].judge, "taste", tmp_path, Limits(item=1, batch=2))
    assert (judge.name, judge.low, judge.high, judge.rubric.label) == ("taste", 1.0, 5.0, "mine.v1")
    assert judge.read_out == ReadOut(chain_of_thought=False) and judge.limits.batch == 2
    assert "a-token-of-the-tests" not in repr(judge)


def test_settings_of_the_read_out_have_its_defaults():
    """And the settings, which do not import what they are for, know the same rubrics."""
    assert ReadOut(**ReadOutConfig().model_dump()) == ReadOut()
    assert set(ReadOutConfig.model_fields) <= {field.name for field in fields(ReadOut)}
    assert shipped_rubrics() == shipped()


def test_the_configs_in_the_page_on_judges_are_accepted(tmp_path):
    """With the folders that they name in place."""
    configs = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "judges.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(configs) >= 3
    (tmp_path / "judges" / "alignment").mkdir(parents=True)
    for name in ("config.json", "judge.json"):
        (tmp_path / "judges" / "alignment" / name).write_text("{}")
    for text in configs:
        (tmp_path / "run.yaml").write_text(text)
        config = load(tmp_path / "run.yaml", TrainConfig)
        check_judges(config.judges, tmp_path)
