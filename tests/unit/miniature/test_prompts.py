"""Prompts say every fact and nothing else; all words come from a closed list."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tastemaker.miniature.world import description as d
from tastemaker.miniature.world.edits import sample_edit
from tastemaker.miniature.world.prompts import NEGATIVE, vocabulary, write_prompt
from tastemaker.miniature.world.sampling import sample_description
from tastemaker.miniature.world.wording import pieces, plural, unknown_pieces

COUNTS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
SIZES = {"small": "small", "large": "large", "big": "large", None: "medium"}
SHAPES = {form: shape for shape in d.SHAPES for form in (shape, plural(shape))}
COLOUR_PATTERN = "|".join(d.COLOURS)
THING = re.compile(
    rf"\b(an?|two|three|four)(?: (small|large|big))?(?: ({COLOUR_PATTERN}))? ({'|'.join(sorted(SHAPES, key=len)[::-1])})\b"
)
SAID_RELATIONS = {
    "with {} on its left": ("left of", True),
    "with {} on its right": ("right of", True),
    "with {} above it": ("above", True),
    "with {} below it": ("below", True),
    "left of": ("left of", False),
    "right of": ("right of", False),
    "above": ("above", False),
    "below": ("below", False),
    "under": ("below", False),
}


def _samples(category: str, number: int = 400):
    rng = np.random.default_rng(7)
    for _ in range(number):
        description = sample_description(rng, category)
        yield description, write_prompt(description, rng)


def _style(text: str) -> str:
    return next((style for style in d.STYLES if style in text), "plain")


def _things_said(text: str) -> list[tuple]:
    return [(COUNTS[n], SIZES[s or None], colour or None, SHAPES[shape]) for n, s, colour, shape in THING.findall(text)]


def _relation_said(text: str) -> tuple[str, bool] | None:
    bare = re.sub(THING, "{}", text)
    return next((found for words, found in SAID_RELATIONS.items() if words in bare), None)


def test_a_scene_can_be_read_back_from_its_prompt():
    for description, text in _samples("general", 800):
        coloured = description.style != "sepia"
        facts = [(t.count, t.size, t.colour if coloured else None, t.shape) for t in description.things]
        said, relation = _things_said(text), _relation_said(text)
        if description.relation is None:
            assert relation is None, text
            assert sorted(map(str, said)) == sorted(map(str, facts)), text
        else:
            assert relation is not None, text
            assert (relation[0], said[::-1] if relation[1] else said) == (description.relation, facts), text


def test_every_prompt_names_its_style():
    for category in d.CATEGORIES:
        for description, text in _samples(category, 200):
            assert _style(text) == description.style, text


def test_a_portrait_can_be_read_back_from_its_prompt():
    for portrait, text in _samples("portrait"):
        sepia = portrait.style == "sepia"
        words = set(pieces(text))
        assert ("glasses" in words) == portrait.glasses, text
        assert (not words & {"serious", "not"}) == portrait.smile, text
        assert ("smiling" in words) == (portrait.smile or "not" in words), text
        said_style = [style for style in d.HAIR_STYLES if style in words]
        assert said_style == [portrait.hair_style], text
        hair = re.search(rf"({'|'.join(d.HAIR_COLOURS)}) hair", text)
        assert (hair and hair[1]) == (None if sepia else portrait.hair_colour), text
        skin = re.search(rf"({'|'.join(d.SKINS)}) skin", text)
        shirt = re.search(rf"({COLOUR_PATTERN}) shirt", text)
        assert (skin and skin[1], shirt and shirt[1]) == ((None, None) if sepia else (portrait.skin, portrait.clothing)), text


def test_a_landscape_can_be_read_back_from_its_prompt():
    weather_words = {"cloudy": "cloudy|clouds", "rainy": "rainy|rain", "snowy": "snowy|falling snow"}
    for view, text in _samples("landscape"):
        assert [time for time in d.TIMES if re.search(rf"\b{time}\b", text)] == [view.time], text
        weather = [name for name, pattern in weather_words.items() if re.search(rf"\b({pattern})\b", text)]
        assert weather == ([] if view.weather == "clear" else [view.weather]), text
        without_falling = text.replace("falling snow", "")
        ground = [name for name in d.GROUNDS if re.search(rf"\b{name}\b", without_falling)]
        assert ground == ([view.ground] if view.style != "sepia" or view.ground == "water" else []), text
        assert [body for body in ("sun", "moon") if re.search(rf"\b{body}\b", text)] == [
            body for body in ("sun", "moon") if body == view.sky_body
        ], text
        trees = re.search(r"\b(a|two|three) trees?\b", text)
        assert (COUNTS[trees[1]] if trees else 0) == view.trees, text
        assert ("mountains" in text) == view.mountains, text


def test_a_sign_can_be_read_back_from_its_prompt():
    for sign, text in _samples("typography"):
        assert re.findall(r'"([A-Z]+)"', text) == [sign.text]
        said = re.search(rf"\b({COLOUR_PATTERN})\b", text)
        assert (said and said[1]) == (None if sign.style == "sepia" else sign.colour), text


def test_the_vocabulary_is_closed_small_and_free_of_dead_words():
    rng = np.random.default_rng(1)
    texts = [write_prompt(sample_description(rng), rng) for _ in range(5000)]
    texts += [sample_edit(rng).instruction for _ in range(1000)]
    assert {piece for text in texts for piece in unknown_pieces(text)} == set()
    words = vocabulary()
    assert len(words) == len(set(words)) < 250
    assert not any(re.search("[A-Z]", word) for word in words)
    assert set(words) - {piece for text in texts for piece in pieces(text)} == set()


def test_prompts_are_short_varied_and_cleanly_spaced():
    texts = [text for category in d.CATEGORIES for _, text in _samples(category, 200)]
    assert np.median([len(pieces(text)) for text in texts]) <= 14
    assert max(len(pieces(text)) for text in texts) <= 26
    for text in texts:
        assert text == " ".join(text.split())
        assert not re.search(r" ,|,,|\ba [aeiou]|\ban [^aeiou]", text), text
    red_circle = d.General((d.Thing("circle", "red"), d.Thing("square", "blue")), "left of")
    rng = np.random.default_rng(0)
    assert len({write_prompt(red_circle, rng) for _ in range(60)}) >= 4


@pytest.mark.parametrize("category", d.CATEGORIES)
def test_writing_is_deterministic(category):
    one, two = (list(_samples(category, 20)) for _ in range(2))
    assert one == two


def test_plurals_and_articles():
    rng = np.random.default_rng(0)
    texts = {write_prompt(d.General((d.Thing("cross", "orange", count=3),)), rng) for _ in range(20)}
    assert "three orange crosses" in texts
    texts = {write_prompt(replace(d.General((d.Thing("cross", "orange"),)), style="sepia"), rng) for _ in range(20)}
    assert "a cross in sepia" in texts
    assert NEGATIVE == ""
