import math
import time

import numpy as np
import pytest
import torch
from fabricated_run import fabricated_picture, fabricated_wall
from PIL import Image

from tastemaker.evaluation.picture_statistics import compare, measure, measure_groups
from tastemaker.evaluation.pixels import as_image, as_pixels
from tastemaker.evaluation.wall import Case, Picture, Wall, draw_wall, paired_wall, save_wall


def noise(count, seed=0, scale=0.05):
    rng = np.random.default_rng(seed)
    return (0.5 + scale * rng.normal(size=(count, 3, 64, 64))).clip(0, 1).astype(np.float32)


def moved(before, after, **others):
    return {shift.name: shift for shift in compare(before, after, **others)}


@pytest.mark.parametrize("kind", ["PIL", "uint8 HWC", "uint8 CHW", "float CHW", "float HWC", "tensor", "bfloat16 tensor"])
def test_a_picture_is_the_same_in_every_form(kind):
    bytes_HWC = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    floats = bytes_HWC.astype(np.float32).transpose(2, 0, 1) / 255
    forms = {
        "PIL": Image.fromarray(bytes_HWC),
        "uint8 HWC": bytes_HWC,
        "uint8 CHW": bytes_HWC.transpose(2, 0, 1),
        "float CHW": floats,
        "float HWC": floats.transpose(1, 2, 0),
        "tensor": torch.tensor(floats, requires_grad=True),
        "bfloat16 tensor": torch.tensor(floats).bfloat16(),
    }
    tolerance = 4e-3 if "bfloat16" in kind else 1e-6
    np.testing.assert_allclose(as_pixels(forms[kind]), floats, atol=tolerance)
    assert as_image(forms[kind]).size == (6, 8)


@pytest.mark.parametrize("broken", [np.full((3, 4, 4), np.nan), np.zeros((4, 4, 4)), np.zeros((3, 0, 4)), np.zeros(3)])
def test_a_broken_picture_has_no_pixels(broken):
    with pytest.raises(ValueError):
        as_pixels(broken)
    assert as_image(broken) is None


def test_the_same_pictures_do_not_move():
    for shift in moved(noise(6), noise(6)).values():
        assert shift.difference == 0
        assert math.isnan(shift.z)


def test_each_statistic_notices_its_own_hack():
    base = noise(40)
    grey = base.mean(1, keepdims=True)
    y, x = np.mgrid[:64, :64]
    grid = (0.03 * ((y % 16 < 2) | (x % 16 < 2))).astype(np.float32)
    hacks = {
        "saturation": grey + 3 * (base - grey),
        "contrast": (0.5 + 2 * (base - 0.5)).clip(0, 1),
        "clipped": np.where(base > 0.56, 1, base),
        "sharpness": base + 0.1 * ((y + x) % 2 - 0.5),
        "high_frequency": base + 0.1 * ((y + x) % 2 - 0.5),
        "grid": base + grid,
    }
    for name, pictures in hacks.items():
        assert moved(base, pictures)[name].z > 5, name
    ring = 0.06 * np.sin(2 * np.pi * x / 23) * np.sin(2 * np.pi * y / 11)
    assert moved(base, base + ring.astype(np.float32))["grid"].z < 3  # periodic, but not with the patch


def test_repeated_pictures_are_counted_within_their_prompt():
    pictures = noise(4, scale=0.3)
    chosen = [pictures[i] for i in (0, 0, 1, 1, 2, 3, 0)]
    found = measure_groups(chosen, list("aaabcbc"))
    assert found["duplicates"] == pytest.approx([1 / 3, 0, 0])
    assert (found["diversity"] > 0).all()
    assert all(math.isnan(v[0]) for v in measure_groups(pictures[:1], ["a"]).values())


def test_collapse_shows_in_diversity():
    base = np.stack([fabricated_picture("red", 1 + i % 4, 0.02, i) for i in range(32)])
    collapsed = np.repeat(base[::4], 4, axis=0)
    found = moved(base, collapsed, prompts=[str(i // 4) for i in range(32)])
    assert found["diversity"].trained == 0 and found["diversity"].z < -5
    assert (found["duplicates"].base, found["duplicates"].trained) == (0, 0.75)
    assert found["duplicates"].n == 8


def test_small_and_flat_pictures_give_nan_where_nothing_can_be_said():
    found = measure(np.full((2, 3, 16, 16), 0.5, np.float32))
    assert np.isnan(found["grid"]).all() and np.isnan(found["high_frequency"]).all()
    assert (found["contrast"] < 1e-6).all() and (found["saturation"] == 0).all()
    shift = moved(np.full((2, 3, 16, 16), 0.5), np.full((2, 3, 16, 16), 0.5))["grid"]
    assert shift.n == 0 and math.isnan(shift.base)


def test_unpaired_pictures_are_refused():
    with pytest.raises(ValueError, match="in pairs"):
        compare(noise(2), noise(3))
    with pytest.raises(ValueError, match="2 sizes"):
        measure([np.zeros((3, 8, 8)), np.zeros((3, 8, 9))])
    with pytest.raises(ValueError, match="needs its prompt"):
        measure_groups(noise(2), ["a"])
    assert compare([], []) == ()


def test_a_thousand_pictures_are_quick():
    pictures = noise(1000)
    start = time.process_time()
    measure(pictures)
    measure_groups(pictures, [str(i // 8) for i in range(1000)])
    assert time.process_time() - start < 4  # about one second; the margin is for a busy machine


def test_the_wall_shows_every_pixel_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    wall = paired_wall("One", ("base",), ["a square"], [[picture]], [[None]])
    drawn = np.asarray(draw_wall(wall, magnify=3))
    enlarged = picture.repeat(3, 0).repeat(3, 1)
    corners = np.argwhere((drawn[:-191, :-191] == enlarged[0, 0]).all(-1))
    assert any((drawn[y : y + 192, x : x + 192] == enlarged).all() for y, x in corners)
    path = save_wall(tmp_path / "wall.png", wall)
    assert Image.open(path).size[0] > 128


def test_a_label_stands_in_the_place_of_the_title():
    def wall(title, label):
        return draw_wall(Wall("h", (title,), (Case("c", (Picture(None, label=label),)),)))

    assert wall("0.97", "").tobytes() == wall("base", "0.97").tobytes() != wall("base", "").tobytes()


@pytest.mark.parametrize(("written", "drawn"), [("base · 1.5", "base / 1.5"), ("−0.5 … “é”", '-0.5 ... "e"'), ("图", "?")])
def test_signs_that_the_font_lacks_are_drawn_as_what_they_mean(written, drawn):
    one, other = (draw_wall(Wall("h", (title,), (Case("c", (Picture(None),)),))) for title in (written, drawn))
    assert one.tobytes() == other.tobytes()


def test_verdicts_are_framed_and_gaps_are_shown():
    drawn = draw_wall(fabricated_wall())
    colours = {colour for _, colour in drawn.getcolors(2**24)}
    assert {(0x0A, 0x8F, 0x68), (0xCF, 0x4A, 0x0B)} <= colours
    missing = draw_wall(Wall("", ("base",), (Case("", (Picture(np.full((3, 64, 64), np.nan)),)),)))
    assert missing.size == draw_wall(Wall("", ("base",), (Case("", (Picture(None),)),))).size


@pytest.mark.parametrize("caption", ["", "w" * 5000, "日本 🎨 \x00\n\t", "word " * 2000, "é" * 300])
def test_any_caption_fits_its_column(caption):
    short = draw_wall(Wall("h", ("base", "trained"), (Case("one", (Picture(None), Picture(None))),)))
    drawn = draw_wall(Wall("h", ("base", "trained"), (Case(caption, (Picture(None), Picture(None))),)))
    assert drawn.width == short.width and drawn.height < short.height + 90
    margin = np.asarray(drawn)[:, -20:]
    assert (margin == 255).all()


def test_an_empty_wall_and_wrong_counts():
    assert draw_wall(Wall("nothing", ("base",), ())).height > 0
    with pytest.raises(ValueError, match="1 pictures, but the wall has 2 titles"):
        Wall("", ("base", "trained"), (Case("x", (Picture(None),)),))
    with pytest.raises(ValueError, match="2 titles, but 1 lists"):
        paired_wall("", ("a", "b"), ["x"], [[None]])
    with pytest.raises(ValueError, match="1 captions"):
        paired_wall("", ("a",), ["x"], [[None, None]])
