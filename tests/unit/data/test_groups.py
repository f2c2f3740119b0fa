from collections import Counter

import pytest

from tastemaker.data.groups import prompts_of_step
from tastemaker.runtime import seeds
from tastemaker.types import Prompt

PROMPTS = [Prompt(str(n), "text") for n in range(10)]


def shuffle(epoch):
    return seeds.random(0, "prompts", epoch)


def test_every_prompt_is_used_once_before_any_again():
    used = [prompt.id for step in range(1, 6) for prompt in prompts_of_step(PROMPTS, step, 4, shuffle)]
    assert set(Counter(used[:10]).values()) == {1} and set(Counter(used[10:]).values()) == {1}
    assert used[:10] != used[10:]


def test_a_step_depends_on_its_number_alone():
    later = prompts_of_step(PROMPTS, 7, 4, shuffle)
    for step in range(1, 7):
        prompts_of_step(PROMPTS, step, 4, shuffle)
    assert prompts_of_step(PROMPTS, 7, 4, shuffle) == later


def test_a_small_data_set_may_repeat_within_a_step():
    assert len(prompts_of_step(PROMPTS[:3], 1, 7, shuffle)) == 7
    with pytest.raises(ValueError, match="no prompts"):
        prompts_of_step([], 1, 7, shuffle)
