"""The miniature world: what a description promises is what its picture shows."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from tastemaker.miniature.world import description as d
from tastemaker.miniature.world import layout as lay
from tastemaker.miniature.world.palette import BACKDROPS, BOARD_RGB, COLOUR_RGB, GROUND_RGB, HAIR_RGB, SKIN_RGB, SKY_RGB
from tastemaker.miniature.world.placement import CANVAS, GAP, MARGIN, RELATION_DISTANCE, SIZE_PX
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.sampling import sample_description

SEEDS = range(120)


def _sample(seed: int, category: str | None = None):
    rng = np.random.default_rng(seed)
    description = sample_description(rng, category)
    return description, lay.sample_layout(description, rng)


@pytest.mark.parametrize("category", d.CATEGORIES)
def test_json_round_trip_is_exact(category):
    for seed in range(40):
        description, layout = _sample(seed, category)
        assert description.category == layout.category == category
        for module, value in ((d, description), (lay, layout)):
            plain = module.to_dict(value)
            assert json.loads(json.dumps(plain)) == plain
            assert module.from_dict(plain) == value


def test_unknown_and_missing_keys_are_refused():
    plain = d.to_dict(d.Typography("CAT", "red"))
    with pytest.raises(ValueError, match="unknown keys \\['font'\\]"):
        d.from_dict({**plain, "font": "serif"})
    with pytest.raises(ValueError, match="lacks keys \\['colour'\\]"):
        d.from_dict({"category": "typography", "text": "CAT"})
    with pytest.raises(ValueError, match="category is 'poem'"):
        d.from_dict({**plain, "category": "poem"})


RED = {"shape": "circle", "colour": "red"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: d.Thing("blob", "red"), "shape is 'blob'; allowed: circle"),
        (lambda: d.Thing("circle", "mauve"), "colour is 'mauve'; allowed: red"),
        (lambda: d.Thing(**RED, count=5), "count is 5; allowed: 1, 2, 3, 4"),
        (lambda: d.Thing(**RED, size="large", count=2), "size is 'large' with count 2"),
        (lambda: d.General(()), "number of things is 0; allowed: 1, 2, 3"),
        (lambda: d.General((d.Thing(**RED),), "above"), "relation is 'above' with 1 things"),
        (lambda: d.General((d.Thing(**RED), d.Thing(**RED, size="small"))), "share shape and colour"),
        (lambda: d.General((d.Thing(**RED, count=2), d.Thing("star", "red"))), "counts are"),
        (lambda: d.General((d.Thing(**RED),), style="oil"), "style is 'oil'"),
        (lambda: d.Portrait("tan", "bald", "red", "blue"), "hair_colour of a bald head is 'red'; allowed: None"),
        (lambda: d.Portrait("tan", "short", None, "blue"), "hair_colour is None; allowed: black"),
        (lambda: d.Portrait("tan", "short", "red", "blue", glasses=1), "glasses is 1; allowed: False, True"),
        (lambda: d.Landscape("night", "grass", sky_body="sun"), "no sun at night"),
        (lambda: d.Landscape("day", "water", trees=1), "no trees on water"),
        (lambda: d.Typography("DOG", "red"), "text is 'DOG'; allowed: 1 to 4 letters"),
        (lambda: d.Typography("", "red"), "text is ''"),
    ],
)
def test_a_wrong_value_gets_one_clear_line(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sampling_and_rendering_are_deterministic():
    for seed in range(20):
        (one, layout_one), (two, layout_two) = _sample(seed), _sample(seed)
        assert (one, layout_one) == (two, layout_two)
        assert np.array_equal(render(one, layout_one), render(two, layout_two))


@pytest.mark.parametrize(("category", "style"), itertools.product(d.CATEGORIES, d.STYLES))
def test_every_style_of_every_category_renders(category, style):
    for seed in range(8):
        description, layout = _sample(seed, category)
        picture = render(replace(description, style=style), layout)
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 3


def test_objects_stay_inside_and_apart():
    for seed in SEEDS:
        description, layout = _sample(seed, "general")
        assert lay.fits(description, layout)
        boxes = lay.boxes(description, layout)
        assert len(boxes) == len(description.objects)
        for x0, y0, x1, y1 in boxes:
            assert min(x0, y0) >= MARGIN - 1e-6
            assert max(x1, y1) <= CANVAS - MARGIN + 1e-6
        for a, b in itertools.combinations(boxes, 2):
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= GAP - 1e-6


def test_relations_hold_clearly():
    seen = set()
    for seed in SEEDS:
        description, layout = _sample(seed, "general")
        if description.relation is None:
            continue
        seen.add(description.relation)
        (ax, ay), (bx, by) = layout.centres
        right, down = bx - ax, by - ay
        along, across = (right, down) if description.relation in ("left of", "right of") else (down, right)
        ahead = along if description.relation in ("left of", "above") else -along
        assert ahead >= RELATION_DISTANCE
        assert ahead > abs(across)
    assert seen == set(d.RELATIONS)


@pytest.mark.parametrize(("shape", "size"), itertools.product(d.SHAPES, d.SIZES))
def test_the_drawn_object_fills_its_box(shape, size):
    description = d.General((d.Thing(shape, "red", size),))
    layout = lay.GeneralLayout(0, ((32.0, 32.0),))
    picture = render(description, layout).astype(int)
    rows, columns = np.nonzero(np.abs(picture - BACKDROPS[0]).sum(axis=-1) > 60)
    x0, y0, x1, y1 = lay.boxes(description, layout)[0]
    assert max(x1 - x0, y1 - y0) == pytest.approx(SIZE_PX[size])
    assert (columns.min(), rows.min()) == pytest.approx((x0, y0), abs=1.6)
    assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x1, y1), abs=1.6)


def test_an_edit_changes_only_what_it_names():
    things = (d.Thing("circle", "red"), d.Thing("star", "blue"))
    layout = lay.GeneralLayout(0, ((16.0, 16.0), (46.0, 46.0)))
    before = render(d.General(things), layout)
    after = render(d.General((things[0], replace(things[1], colour="green"))), layout)
    rows, columns = np.nonzero((before != after).any(axis=-1))
    assert min(rows.min(), columns.min()) >= 35


def test_place_adds_an_object_and_knows_when_there_is_no_room():
    rng = np.random.default_rng(0)
    one, two = d.Thing("circle", "red"), d.Thing("star", "blue")
    layout = lay.sample_layout(d.General((one,)), rng)
    grown = lay.place(d.General((one, two)), layout, rng)
    assert grown.centres[:1] == layout.centres
    assert lay.fits(d.General((one, two)), grown)
    large = (replace(one, size="large"), replace(two, size="large"))
    assert lay.place(d.General(large), lay.GeneralLayout(0, ((32.0, 32.0),)), rng) is None


def test_two_large_things_find_room():
    things = (d.Thing("square", "red", "large"), d.Thing("circle", "blue", "large"))
    description = d.General(things, "left of")
    assert lay.fits(description, lay.sample_layout(description, np.random.default_rng(0)))


@pytest.mark.parametrize("colours", [COLOUR_RGB, SKIN_RGB, HAIR_RGB, SKY_RGB, GROUND_RGB])
def test_colours_a_prompt_may_confuse_are_far_apart(colours):
    for one, two in itertools.combinations(colours.values(), 2):
        assert np.linalg.norm(np.subtract(one, two)) >= 60


def test_colours_are_far_from_what_they_are_drawn_on():
    grounds = (*BACKDROPS, *BOARD_RGB.values())
    for colour, ground in itertools.product(COLOUR_RGB.values(), grounds):
        assert np.linalg.norm(np.subtract(colour, ground)) >= 60
    for hair, skin in itertools.product(HAIR_RGB.values(), SKIN_RGB.values()):
        assert np.linalg.norm(np.subtract(hair, skin)) >= 55


@pytest.mark.parametrize("style", d.STYLES)
def test_letters_differ(style):
    layout = lay.TypographyLayout(0, "pale", (0.0, 0.0))
    pictures = [render(d.Typography(letter * 4, "blue", style), layout).astype(int) for letter in d.LETTERS]
    for one, two in itertools.combinations(pictures, 2):
        assert (np.abs(one - two).sum(axis=-1) > 90).sum() >= 4 * 8


def test_pixel_art_is_made_of_blocks_and_sepia_of_browns():
    description, layout = _sample(3, "landscape")
    blocks = render(replace(description, style="pixel art"), layout).reshape(16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    sepia = render(replace(description, style="sepia"), layout).astype(int)
    assert (sepia[..., 0] > sepia[..., 1]).all()
    assert (sepia[..., 1] > sepia[..., 2]).all()


def test_a_layout_of_another_category_is_refused():
    _, layout = _sample(0, "portrait")
    with pytest.raises(ValueError, match="layout is for 'portrait'; allowed: 'typography'"):
        render(d.Typography("A", "red"), layout)


@pytest.mark.parametrize("skin", d.SKINS)
def test_a_smile_shows_in_every_style(skin):
    _, layout = _sample(0, "portrait")
    for style in d.STYLES:
        one, two = (
            render(d.Portrait(skin, "bald", None, "red", smile=smile, style=style), layout).astype(int)
            for smile in (False, True)
        )
        assert (np.abs(one - two).sum(axis=-1) > 60).sum() >= 12


def test_every_colour_shows_on_a_sepia_backdrop():
    for colour, backdrop in itertools.product(d.COLOURS, range(len(BACKDROPS))):
        description = d.General((d.Thing("circle", colour),), style="sepia")
        picture = render(description, lay.GeneralLayout(backdrop, ((32.0, 32.0),))).astype(int)
        assert np.linalg.norm(picture[32, 32] - picture[2, 2]) >= 60
