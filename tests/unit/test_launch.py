"""From the names in a config to what they stand for."""

import pytest

from tastemaker.config import TrainConfig, parse
from tastemaker.errors import UserMistake
from tastemaker.launch import check_categories
from tastemaker.types import Prompt

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
