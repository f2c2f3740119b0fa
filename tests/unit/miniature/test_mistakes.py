"""Mistaken captions and instructions: as often as meant, of the same kind, and never naming what is reserved."""

from dataclasses import fields

import numpy as np
import pytest

from tastemaker.miniature.world.description import General
from tastemaker.miniature.world.edits import EDIT_KINDS
from tastemaker.miniature.world.mistakes import MISTAKEN, MISTAKEN_EDITS, caption_of, edit_asked_for
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.splits import sample, sample_edit, split_of, split_of_edit


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


def test_mistaken_instructions_are_of_another_edit_of_the_same_kind_and_source():
    rng = np.random.default_rng(4)
    pairs = [sample_edit("train", rng) for _ in range(1500)]
    asked = [edit_asked_for(pair, rng) for pair in pairs]
    wrong = [(pair, other) for pair, other in zip(pairs, asked, strict=True) if other is not pair]
    share = MISTAKEN_EDITS * np.mean([pair.edit.kind not in ("glasses", "smile") for pair in pairs])
    assert share - 0.06 < len(wrong) / len(pairs) < share + 0.03  # some sources have one edit of a kind only
    for pair, other in wrong:
        assert other.edit.kind == pair.edit.kind and other.edit.source == pair.edit.source
        assert other.edit.target != pair.edit.target and split_of_edit(other.edit) == "train"
    assert {pair.edit.kind for pair, _ in wrong} == set(EDIT_KINDS) - {"glasses", "smile"}


def _differences(shown, said) -> set[str]:
    """Names of the facts that differ; hair counts as one fact."""
    names = {field.name for field in fields(shown) if getattr(shown, field.name) != getattr(said, field.name)}
    if isinstance(shown, General) and "things" in names:
        pairs = zip(shown.things, said.things, strict=True)
        names |= {field.name for a, b in pairs for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)}
    if names & {"hair_style", "hair_colour"}:
        names = names - {"hair_style", "hair_colour"} | {"hair"}
    return names - {"things"}
