"""Mistaken captions: as often as meant, wrong in one fact, and never naming what is reserved."""

from dataclasses import fields

import numpy as np
import pytest

from tastemaker.miniature.world.description import General
from tastemaker.miniature.world.mistakes import MISTAKEN, caption_of
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.splits import sample, split_of


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(3)
    shown = [sample("train", rng) for _ in range(3000)]
    return [(description, caption_of(description, rng)) for description in shown]


def test_the_share_of_mistakes_is_as_stated(captions):
    wrong = sum(shown != said for shown, said in captions)
    assert abs(wrong / len(captions) - MISTAKEN) < 4 * (MISTAKEN * (1 - MISTAKEN) / len(captions)) ** 0.5


def test_no_caption_names_what_other_splits_reserve(captions):
    assert {split_of(said) for _, said in captions} == {"train"}


def test_a_mistake_is_one_fact_and_can_be_read(captions):
    rng = np.random.default_rng(0)
    for shown, said in captions:
        if shown != said:
            assert len(_differences(shown, said)) == 1, (shown, said)
            assert shown.style == said.style
            assert write_prompt(said, rng)


def test_every_kind_of_fact_is_mistaken_somewhere(captions):
    found = {name for shown, said in captions if shown != said for name in _differences(shown, said)}
    assert found >= {"colour", "shape", "size", "count", "relation", "skin", "hair", "clothing", "glasses", "smile"}
    assert found >= {"time", "ground", "weather", "sky_body", "trees", "mountains", "text"}


def _differences(shown, said) -> set[str]:
    """Names of the facts that differ; hair counts as one fact."""
    names = {field.name for field in fields(shown) if getattr(shown, field.name) != getattr(said, field.name)}
    if isinstance(shown, General) and "things" in names:
        pairs = zip(shown.things, said.things, strict=True)
        names |= {field.name for a, b in pairs for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)}
    if names & {"hair_style", "hair_colour"}:
        names = names - {"hair_style", "hair_colour"} | {"hair"}
    return names - {"things"}
