"""Splits share no combination of facts, and the held-out sets are fixed and balanced."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tastemaker.miniature.world import description as d
from tastemaker.miniature.world.corpus import read_corpus, write_corpus
from tastemaker.miniature.world.edits import EDIT_KINDS
from tastemaker.miniature.world.sampling import KIND_WEIGHTS, sample_description
from tastemaker.miniature.world.splits import (
    HELD_OUT_SIZE,
    SPLITS,
    combinations,
    held_out,
    rl_prompts,
    sample,
    sample_edit,
    split_of,
    split_of_edit,
)


@pytest.fixture(scope="module")
def descriptions() -> list[d.Description]:
    rng = np.random.default_rng(11)
    return [sample_description(rng) for _ in range(20_000)]


@pytest.fixture(scope="module")
def prompts():
    return held_out()


@pytest.fixture(scope="module")
def edits():
    return held_out("edit", 140)


def test_no_combination_leaks_into_a_looser_split(descriptions):
    seen = {split: {c for x in descriptions if split_of(x) == split for c in combinations(x)} for split in SPLITS}
    for description in descriptions:
        own = set(combinations(description))
        match split_of(description):
            case "eval":
                assert own - seen["train"] - seen["rl"]
            case "rl":
                assert own - seen["train"]


def test_the_shares_are_as_meant(descriptions):
    shares = {key: count / len(descriptions) for key, count in Counter(map(split_of, descriptions)).items()}
    assert shares["train"] > 0.5
    assert 0.06 < shares["eval"] < 0.11
    assert 0.3 < shares["rl"] < 0.45
    for category in d.CATEGORIES:
        own = [split_of(x) for x in descriptions if x.category == category]
        assert 0.03 < own.count("eval") / len(own) < 0.15


def test_training_sees_every_part(descriptions):
    train = [x for x in descriptions if split_of(x) == "train"]
    parts = {part for x in train for c in combinations(x) for part in c}
    assert parts >= {
        *d.SHAPES,
        *d.COLOURS,
        *d.RELATIONS[::2],
        *d.HAIR_COLOURS,
        *d.HAIR_STYLES,
        *d.TIMES,
        *d.GROUNDS,
        *d.WEATHERS,
    }
    assert {x.kind for x in train if x.category == "general"} == set(KIND_WEIGHTS)
    assert parts >= set(d.LETTERS)


@pytest.mark.parametrize(("category", "at_least"), [("portrait", 40), ("landscape", 20), ("typography", 50)])
def test_reinforcement_learning_sees_many_combinations(category, at_least):
    """With a dozen of them a policy learns those instead of doing as it is told."""
    asked = [item.description for item in rl_prompts(4000, 7) if item.category == category]
    assert len({c for x in asked for c in combinations(x) if split_of(x) == "rl" and c[0] != "sepia"}) >= at_least


def _reserved_looks(descriptions, split: str) -> set[tuple[str, str]]:
    looks = {c[1:] for x in descriptions if split_of(x) == split for c in combinations(x) if c[0] == "look"}
    return {c for c in looks if split_of(d.General((d.Thing(*c),))) == split}


def test_held_out_looks_differ_in_all_their_parts(descriptions):
    reserved = _reserved_looks(descriptions, "eval")
    assert len(reserved) >= 2
    assert len({shape for shape, _ in reserved}) == len({colour for _, colour in reserved}) == len(reserved)


def test_looks_for_reinforcement_learning_are_of_every_shape_and_nearly_every_colour(descriptions):
    """Else what pays in nearly every prompt is one shape or colour, whatever the prompt says."""
    reserved = _reserved_looks(descriptions, "rl")
    assert len(reserved) >= 10
    assert {shape for shape, _ in reserved} == set(d.SHAPES)
    assert len({colour for _, colour in reserved}) >= len(d.COLOURS) - 1


def test_converse_relations_are_the_same_combination():
    one, two = d.Thing("circle", "red"), d.Thing("star", "green")
    for relation, converse in (("left of", "right of"), ("above", "below")):
        for style in ("plain", "sepia"):
            a = d.General((one, two), relation, style)
            b = d.General((two, one), converse, style)
            assert sorted(combinations(a)) == sorted(combinations(b))


def test_sepia_decides_by_what_it_says():
    scene = d.General((d.Thing("circle", "red"),), style="sepia")
    assert split_of(scene) == split_of(d.General((d.Thing("circle", "blue"),), style="sepia"))
    assert combinations(scene) != combinations(replace(scene, style="plain"))


@pytest.mark.parametrize("split", SPLITS)
def test_samples_belong_to_their_split(split):
    rng = np.random.default_rng(0)
    assert {split_of(sample(split, rng)) for _ in range(60)} == {split}
    for _ in range(20):
        edit = sample_edit(split, rng).edit
        assert split_of(edit.target) == split == split_of_edit(edit)
        assert SPLITS.index(split_of(edit.source)) <= SPLITS.index(split)


def test_the_held_out_prompts_are_balanced_and_distinct(prompts):
    assert len(prompts) == HELD_OUT_SIZE["t2i"] >= 500
    assert set(Counter(item.category for item in prompts).values()) == {150}
    assert set(Counter(x.description.kind for x in prompts if x.category == "general").values()) == {30}
    assert len({item.text for item in prompts}) == len({item.id for item in prompts}) == len(prompts)
    assert {split_of(item.description) for item in prompts} == {"eval"}


def test_the_held_out_edits_are_balanced(edits):
    assert HELD_OUT_SIZE["edit"] == 40 * len(EDIT_KINDS) >= 500
    assert Counter(item.pair.edit.kind for item in edits) == dict.fromkeys(EDIT_KINDS, 10)
    assert {split_of_edit(item.pair.edit) for item in edits} == {"eval"}
    assert len({item.id for item in edits}) == len(edits)


def test_a_shorter_held_out_set_is_the_beginning_of_a_longer_one(prompts, edits):
    assert held_out(n=40) == prompts[:40]
    assert held_out("edit", 20) == edits[:20]
    counts = Counter(item.category for item in prompts[:40])
    assert set(counts.values()) == {10}


def test_the_held_out_set_never_changes(prompts, edits):
    """These texts are part of published numbers: a change here makes old and new results incomparable."""
    assert [item.text for item in prompts[:4]] == FIRST_PROMPTS
    assert [item.text for item in edits[:4]] == FIRST_EDITS


def test_rl_prompts_follow_the_seed():
    for task in ("t2i", "edit"):
        items = rl_prompts(12, 5, task)
        assert items == rl_prompts(12, 5, task) != rl_prompts(12, 6, task)
        assert {item.task for item in items} == {task}
        assert {split_of(item.description) for item in items} == {"rl"}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="split is 'test'; allowed: train, rl, eval"):
        sample("test", np.random.default_rng(0))
    with pytest.raises(ValueError, match="task is 'video'; allowed: t2i, edit"):
        held_out("video")


def test_a_corpus_can_be_read_back(tmp_path, prompts, edits):
    items = prompts[:20] + edits[:20]
    path = write_corpus(items, tmp_path / "held_out")
    assert read_corpus(path) == items
    assert len(list((path.parent / "sources").glob("*.png"))) == 20


FIRST_PROMPTS = [
    "a yellow triangle as a line drawing",
    "a line drawing of a smiling face with tan skin, long brown hair and a blue shirt",
    "water at night with mountains, pixel art",
    'red letters "HSOA" on a sign, line drawing',
]
FIRST_EDITS = [
    "turn the blue triangle purple",
    "make the yellow triangles small",
    "replace the yellow star with a red circle",
    "put in a cyan cross",
]
