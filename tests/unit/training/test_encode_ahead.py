"""What is encoded before the first step is what the steps will ask for: no prompt more, and in no process twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tastemaker.errors import Stopped
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.batch import encode_ahead, prompts_of
from tastemaker.training.start import Around, _heard
from tastemaker.types import Prompt

PROMPTS = [Prompt(str(n), f"text {n}", task="edit" if n % 3 == 0 else "t2i") for n in range(20)]


class Heard:
    """In the place of an `EmbeddingCache`."""

    def encode_ahead(self, prompts, negatives, progress):
        self.prompts, self.negatives = list(prompts), list(negatives)


def setup(**changes: Any) -> Any:
    values = {
        "prompts": PROMPTS,
        "seed": 3,
        "prompts_per_step": 4,
        "edit_share": 0.5,
        "ranks": SimpleNamespace(rank=0, count=1),
        "sampler": SimpleNamespace(guided=True),
        "negative_prompt": "ugly",
        "teachers": None,
        "embeddings": Heard(),
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize(("steps", "most"), [(range(1, 3), 8), (range(2, 3), 4), (range(1, 10_000), 20), (range(5, 5), 0)])
def test_the_prompts_of_the_steps_to_come(steps, most):
    made = setup()
    encode_ahead(made, steps, print)
    wanted = {prompt.id for step in steps[:100] for prompt in prompts_of(made, step)}
    found = [prompt.id for prompt in made.embeddings.prompts]
    assert sorted(found) == sorted(wanted) and len(found) == most
    assert made.embeddings.negatives == ["ugly"]


def test_processes_begin_at_different_prompts_and_all_know_all():
    orders = []
    for rank in range(3):
        made = setup(ranks=SimpleNamespace(rank=rank, count=3))
        encode_ahead(made, range(1, 100), print)
        orders.append([prompt.id for prompt in made.embeddings.prompts])
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert [orders[0].index(order[0]) for order in orders] == [0, 6, 13]


def test_the_unconditional_branches_of_those_who_guide():
    made = setup(sampler=SimpleNamespace(guided=False))
    encode_ahead(made, range(1, 3), print)
    assert made.embeddings.negatives == []
    guides = {
        "a": SimpleNamespace(guidance=2.0, negative_prompt="blurry"),
        "b": SimpleNamespace(guidance=1.0, negative_prompt="never"),
    }
    made.teachers = SimpleNamespace(by_name=guides)
    encode_ahead(made, range(1, 3), print)
    assert made.embeddings.negatives == ["blurry"]


def test_encoding_ahead_can_be_left_between_two_prompts():
    told: list[tuple[int, int]] = []
    around, stop, over = Around(encoded=lambda *given: told.append(given)), StopRequest(), [False]
    hear = _heard(around, stop, lambda: over[0])
    hear(1, 9)
    over[0] = True
    with pytest.raises(Stopped, match=r"budget\.max_minutes are over, 2 of 9 prompts are encoded and kept"):
        hear(2, 9)
    stop.request()
    with pytest.raises(Stopped, match="stopped on request, 3 of 9"):
        hear(3, 9)
    assert told == [(1, 9), (2, 9), (3, 9)]
    several = Around(ranks=SimpleNamespace(count=2))
    _heard(several, stop, lambda: True)(4, 9)  # they leave together, at the end of a step
