"""Reads a sign against its description."""

import numpy as np

from tastemaker.miniature.oracle.pixels import colour_score
from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.oracle.signs import Glyph, Sign, board_whiteness, see_sign
from tastemaker.miniature.oracle.styles import style_score
from tastemaker.miniature.world.description import Typography


def typography_fact_names(description: Typography) -> tuple[str, ...]:
    """Stable names of the facts, in the order of `typography_scores`."""
    return ("letters", "style") if description.style == "sepia" else ("letters", "letter colour", "style")


def typography_scores(pixels: np.ndarray, description: Typography) -> dict[str, float]:
    """Scores by fact name, for float pixels in 0..255."""
    sign = see_sign(pixels, description.style)
    scores = {
        "letters": letters_score(sign, description.text),
        "letter colour": _colour(sign, description.colour),
        "style": style_score(pixels, description.style, _hollow(sign)) if sign.glyphs else 0.0,
    }
    return {name: scores[name] for name in typography_fact_names(description)}


def glyph_score(glyph: Glyph, letter: str) -> float:
    """Whether a cell clearly shows this letter."""
    own = glyph.matches[letter]
    rival = max(match for name, match in glyph.matches.items() if name != letter)
    return min(graded(own, 0.55, 0.78, 0.9), graded(own - rival, -0.3, 0.015, 0.06))


def letters_score(sign: Sign, text: str) -> float:
    """At least PASS only where the sign says exactly `text`; below it, half the share of letters in their place."""
    if len(sign.glyphs) != len(text):
        return 0.45 * _common(sign.text, text) / max(len(text), len(sign.glyphs))
    each = [glyph_score(glyph, letter) for glyph, letter in zip(sign.glyphs, text, strict=True)]
    whole = min(min(each), graded(sign.leftover, 0.6, 0.25, 0.1))
    return whole if whole >= 0.5 else min(0.49, 0.5 * float(np.mean(each)))


def _common(one: str, two: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(two) + 1)
    for a in one:
        before = row
        row = [0]
        for j, b in enumerate(two):
            row.append(before[j] + 1 if a == b else max(row[j], before[j + 1]))
    return row[-1]


def _colour(sign: Sign, colour: str) -> float:
    """All letters in the named colour."""
    if not sign.glyphs:
        return 0.0
    each = [colour_score(glyph.colours, colour) for glyph in sign.glyphs]
    return min(each) if min(each) >= 0.5 else min(0.49, float(np.mean(each)))


def _hollow(sign: Sign) -> float:
    """A line drawing has a wide rim and a white board."""
    if sign.board.min() < 150:
        return 0.0
    return 0.5 * graded(sign.rim, 2.0, 2.4, 2.8) + 0.5 * board_whiteness(sign)
