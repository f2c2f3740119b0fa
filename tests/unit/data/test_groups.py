from collections import Counter

import pytest

from tastemaker.data.groups import prompts_of_step
from tastemaker.runtime import seeds
from tastemaker.types import Prompt

PROMPTS = [Prompt(str(n), "text") for n in range(10)]


def shuffle(*key):
    return seeds.random(0, "prompts", *key)


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


# ---- a stated share of edits -------------------------------------------------------------------------

MIXED = [Prompt(f"t{n}", "text") for n in range(7)] + [
    Prompt(f"e{n}", "text", task="edit", sources=("a.png",)) for n in range(5)
]


@pytest.mark.parametrize(("share", "size"), [(0.5, 4), (0.3, 5), (1 / 3, 4), (0.05, 6), (0.99, 3), (0.5, 1)])
def test_the_share_of_edits_holds_for_any_number_of_steps(share, size):
    edits = 0
    for step in range(1, 101):
        some = prompts_of_step(MIXED, step, size, shuffle, share)
        assert len(some) == size
        edits += sum(prompt.task == "edit" for prompt in some)
        assert abs(edits - step * size * share) <= 0.5 + 1e-9


def test_with_a_share_every_prompt_of_a_task_is_used_once_before_any_again():
    used = [prompt.id for step in range(1, 31) for prompt in prompts_of_step(MIXED, step, 4, shuffle, 0.25)]
    for letter, count in (("t", 7), ("e", 5)):
        mine = [name for name in used if name[0] == letter]
        epochs = [mine[start : start + count] for start in range(0, len(mine) - count + 1, count)]
        assert len(epochs) >= 6 and all(len(set(epoch)) == count for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_with_a_share_a_step_depends_on_its_number_alone():
    assert prompts_of_step(MIXED, 9, 5, shuffle, 0.4) == prompts_of_step(list(MIXED), 9, 5, shuffle, 0.4)
    with pytest.raises(ValueError, match="no prompts"):
        prompts_of_step(MIXED[:7], 1, 4, shuffle, 0.5)
