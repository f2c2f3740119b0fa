"""Edits: the target differs from the source in what the instruction names, and in nothing else."""

from collections import Counter

import numpy as np
import pytest

from tastemaker.miniature.world import description as d
from tastemaker.miniature.world import layout as lay
from tastemaker.miniature.world.corpus import edit_from_dict, from_row, to_row
from tastemaker.miniature.world.edit_things import SIDE_LIMIT
from tastemaker.miniature.world.edits import EDIT_KINDS, WEIGHTS, Edit, sample_edit
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import Item
from tastemaker.miniature.world.wording import pieces

CELLS = [(kind, category) for kind, weights in WEIGHTS.items() for category in weights]


def _pairs(number: int, **choice):
    rng = np.random.default_rng(3)
    return [sample_edit(rng, **choice) for _ in range(number)]


def _changed(pair, threshold: int = 12) -> np.ndarray:
    """Boolean (64, 64): pixels that differ between source and target."""
    before = render(pair.edit.source, pair.source_layout).astype(int)
    after = render(pair.edit.target, pair.target_layout).astype(int)
    return np.abs(before - after).max(axis=-1) > threshold


@pytest.mark.parametrize(("kind", "category"), CELLS)
def test_both_pictures_are_valid_and_visibly_different(kind, category):
    for pair in _pairs(8, kind=kind, category=category):
        assert (pair.edit.kind, pair.category) == (kind, category)
        assert lay.fits(pair.edit.source, pair.source_layout)
        assert lay.fits(pair.edit.target, pair.target_layout)
        assert _changed(pair).sum() >= 10, pair


def test_unknown_kinds_and_cells_are_refused():
    with pytest.raises(ValueError, match="kind is 'text' with category 'portrait'; allowed: recolour of general"):
        sample_edit(np.random.default_rng(0), "text", "portrait")
    red = d.Typography("HI", "red")
    with pytest.raises(ValueError, match="kind is 'recolor'; allowed: recolour"):
        Edit("recolor", red, red, "recolour")
    with pytest.raises(ValueError, match="secondary None and no middle; allowed: both in compound"):
        Edit("compound", red, red, "recolour")


def test_weights_add_up_and_every_kind_and_category_occurs():
    assert sum(sum(weights.values()) for weights in WEIGHTS.values()) == pytest.approx(1.0, abs=0.01)
    pairs = _pairs(600)
    kinds, categories = (Counter(pair.edit.kind for pair in pairs), Counter(pair.category for pair in pairs))
    assert set(kinds) == set(EDIT_KINDS)
    assert min(kinds.values()) >= 12
    assert min(categories[category] for category in d.CATEGORIES) >= 50
    assert np.mean([pair.edit.source.style == "plain" for pair in pairs]) > 0.75


def test_sampling_is_deterministic():
    assert _pairs(30) == _pairs(30)


def _distance_to_boxes(mask: np.ndarray, boxes) -> float:
    """How far outside all boxes the farthest changed pixel lies, in px."""
    rows, columns = np.nonzero(mask)
    gaps = [
        np.maximum(np.maximum(x0 - columns - 0.5, columns + 0.5 - x1), np.maximum(y0 - rows - 0.5, rows + 0.5 - y1))
        for x0, y0, x1, y1 in boxes
    ]
    return float(np.min(gaps, axis=0).max())


@pytest.mark.parametrize("kind", ["recolour", "resize", "replace", "add", "remove", "move"])
def test_pixels_change_only_where_the_changed_things_are(kind):
    for pair in _pairs(40, kind=kind, category="general"):
        source, target = pair.edit.source, pair.edit.target
        if source.style != "plain":
            continue
        before = list(zip(source.objects, pair.source_layout.centres, lay.boxes(source, pair.source_layout), strict=True))
        after = list(zip(target.objects, pair.target_layout.centres, lay.boxes(target, pair.target_layout), strict=True))
        kept = {(_bare(thing), centre) for thing, centre, _ in before} & {(_bare(thing), centre) for thing, centre, _ in after}
        boxes = [box for thing, centre, box in before + after if (_bare(thing), centre) not in kept]
        assert pair.source_layout.backdrop == pair.target_layout.backdrop
        assert _distance_to_boxes(_changed(pair, 0), boxes) <= 2.0, pair  # one for the soft edge


def _bare(thing: d.Thing) -> tuple[str, str, str]:
    return thing.shape, thing.colour, thing.size


@pytest.mark.parametrize("category", ["portrait", "landscape", "typography"])
def test_identity_is_kept_outside_scenes_of_shapes(category):
    for pair in _pairs(60, category=category):
        assert pair.source_layout == pair.target_layout


FIELDS = {
    ("recolour", "portrait"): {"clothing"},
    ("recolour", "typography"): {"colour"},
    ("add", "landscape"): {"sky_body", "trees", "mountains"},
    ("remove", "landscape"): {"sky_body", "trees", "mountains"},
    ("hair", "portrait"): {"hair_style", "hair_colour"},
    ("glasses", "portrait"): {"glasses"},
    ("smile", "portrait"): {"smile"},
    ("time", "landscape"): {"time", "sky_body"},
    ("season", "landscape"): {"ground", "weather"},
    ("text", "typography"): {"text"},
    **{("restyle", category): {"style"} for category in d.CATEGORIES},
    **{(kind, "general"): {"things", "relation"} for kind in ("recolour", "resize", "replace", "add", "remove", "move")},
}


def _changed_fields(before: d.Description, after: d.Description) -> set[str]:
    return {name for name, value in vars(before).items() if vars(after)[name] != value}


@pytest.mark.parametrize(("kind", "category"), sorted(FIELDS))
def test_a_kind_changes_its_own_facts_only(kind, category):
    for pair in _pairs(12, kind=kind, category=category):
        changed = _changed_fields(pair.edit.source, pair.edit.target)
        assert changed <= FIELDS[kind, category]
        assert changed or pair.edit.moved


def test_a_move_names_a_relation_or_a_side_that_then_holds():
    pairs = _pairs(120, kind="move")
    assert {pair.edit.moved is None for pair in pairs} == {True, False}
    for pair in pairs:
        target, moved = pair.edit.target, pair.edit.moved
        if moved is None:
            assert target.relation not in (None, pair.edit.source.relation)
            continue
        index = next(i for i, t in enumerate(target.things) if (t.shape, t.colour) == (moved.shape, moved.colour))
        (x0, y0), (x1, y1) = pair.source_layout.centres[index], pair.target_layout.centres[index]
        assert {"left": y0 == y1 and x1 <= SIDE_LIMIT, "right": y0 == y1 and x1 >= 64 - SIDE_LIMIT}.get(moved.side, x0 == x1)
        assert moved.side in pair.instruction


def test_things_are_named_unambiguously():
    for pair in _pairs(200, category="general"):
        things = pair.edit.source.things
        words = pieces(pair.instruction)
        for shape in d.SHAPES:
            same = [thing for thing in things if thing.shape == shape]
            if len(same) > 1:
                bare = [i for i in range(1, len(words)) if words[i] == shape and words[i - 1] == "the"]
                assert not bare, pair


def test_sepia_edits_speak_of_no_colour():
    sepia = [pair for pair in _pairs(300) if "sepia" in (pair.edit.source.style, pair.edit.target.style)]
    assert sepia
    for pair in sepia:
        if pair.edit.target.style == "sepia":
            assert not set(pieces(pair.instruction)) & {*d.COLOURS, *d.HAIR_COLOURS}, pair
        assert pair.edit.source.style != "sepia" or pair.edit.target.style == "sepia"


def test_a_compound_is_two_kinds_that_both_show():
    pairs = _pairs(150, kind="compound")
    assert {pair.category for pair in pairs} == set(d.CATEGORIES)
    for pair in pairs:
        edit = pair.edit
        assert edit.core != edit.secondary
        assert {edit.core, edit.secondary} <= set(EDIT_KINDS) - {"compound"}
        core = _changed_fields(edit.source, edit.middle)
        assert core <= FIELDS[edit.core, pair.category]
        assert _changed_fields(edit.middle, edit.target) <= FIELDS[edit.secondary, pair.category]
        assert edit.source not in (edit.middle, edit.target) or edit.moved


def test_instructions_are_short_and_varied():
    pairs = _pairs(400)
    lengths = [len(pieces(pair.instruction)) for pair in pairs]
    assert np.median(lengths) <= 7
    assert max(lengths) <= 24
    assert len({pair.instruction for pair in pairs}) > 200


def test_rows_keep_the_whole_truth():
    for i, pair in enumerate(_pairs(80)):
        item = Item(f"e{i}", pair.instruction, pair.edit.target, pair)
        row = to_row(item, ["sources/e.png"])
        assert set(row) == {"id", "text", "category", "task", "sources", "truth"}
        assert from_row(row) == item
        assert edit_from_dict(row["truth"]) == pair.edit
