"""Reads a landscape against its description."""

import numpy as np

from tastemaker.miniature.oracle.landscapes import Layer, View
from tastemaker.miniature.oracle.pixels import colour_score
from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.oracle.styles import style_score
from tastemaker.miniature.world.description import Landscape
from tastemaker.miniature.world.prompts import says_ground

# What a match in [0, 1], or a number of strokes or flakes, must reach: halfway between pictures with and without.
_PASSES: dict[str, dict[str, float]] = {
    "plain": {"cloud": 0.74, "body": 0.72, "peak": 0.44, "tree": 0.62, "strokes": 5.0, "flakes": 5.2},
    "line drawing": {"cloud": 0.78, "body": 0.7, "peak": 0.64, "tree": 0.73, "strokes": 5.0, "flakes": 5.2},
    "pixel art": {"cloud": 0.68, "body": 0.72, "peak": 0.58, "tree": 0.58, "strokes": 3.2, "flakes": 4.4},
    "sepia": {"cloud": 0.68, "body": 0.7, "peak": 0.46, "tree": 0.68, "strokes": 5.0, "flakes": 5.2},
}


def landscape_fact_names(description: Landscape) -> tuple[str, ...]:
    """Stable names of the facts, in the order of `landscape_scores`; what is not said is no fact."""
    said = {
        "time": True,
        "ground": says_ground(description),
        "weather": description.weather != "clear",
        "sky body": description.sky_body != "none",
        "trees": description.trees > 0,
        "mountains": description.mountains,
        "style": True,
    }
    return tuple(name for name, is_said in said.items() if is_said)


def landscape_scores(pixels: np.ndarray, description: Landscape) -> dict[str, float]:
    """Scores by fact name, for float pixels in 0..255."""
    return score_facts(View(pixels, description.style), pixels, description, landscape_fact_names(description))


def score_facts(view: View, pixels: np.ndarray, description: Landscape, names: tuple[str, ...]) -> dict[str, float]:
    """Scores of the named facts, also of those that say that something is absent."""
    makers = {
        "time": lambda: layer_score(view.sky, description.time),
        "ground": lambda: layer_score(view.ground, description.ground),
        "weather": lambda: weather_score(view, description.weather),
        "sky body": lambda: body_score(view, description.sky_body),
        "trees": lambda: trees_score(view, description.trees),
        "mountains": lambda: mountains_score(view) if description.mountains else 1 - mountains_score(view),
        "style": lambda: style_score(pixels, description.style, view.hollow) if view.sky.share > 0.15 else 0.0,
    }
    return {name: makers[name]() for name in names}


def layer_score(layer: Layer, name: str) -> float:
    """The named colour, and enough of it."""
    return min(colour_score(layer.distances, name), graded(layer.share, 0.1, 0.3, 0.5))


def _clear(match: float, part: str, style: str) -> float:
    """Grades a template's match."""
    passing = _PASSES[style][part]
    return graded(match, passing - 0.3, passing, passing + 0.15)


def weather_score(view: View, weather: str) -> float:
    """The named weather shows and no other does; 'clear' is the absence of all."""
    passes = _PASSES[view.style]
    signs = {
        "cloudy": _clear(view.clouds[0][0], "cloud", view.style),
        "rainy": graded(view.strokes[0], 0, passes["strokes"], 1.6 * passes["strokes"]),
        "snowy": graded(view.flakes[0], 0, passes["flakes"], 1.6 * passes["flakes"]),
    }
    other = max(score for name, score in signs.items() if name != weather)
    return min(signs[weather], 1 - other) if weather != "clear" else 1 - other


def body_score(view: View, body: str) -> float:
    """The named body shows; at sunset, the only time that has both, the other does not."""
    sun, moon = (
        _clear((view.sun if name == "sun" else view.moon)[0], "body", view.style)
        if name == body or body == "none" or view.sky.name == "sunset"
        else 0.0
        for name in ("sun", "moon")
    )
    return {"sun": min(sun, 1 - moon), "moon": min(moon, 1 - sun), "none": 1 - max(sun, moon)}[body]


def trees_score(view: View, number: int) -> float:
    """All of `number` crowns are clear, and a further one is not even half there."""
    crowns = [_clear(match, "tree", view.style) for match, _, _ in view.trees]
    if number == 0:
        return 1 - crowns[0]
    exact = min(crowns[number - 1], 1 - crowns[number])
    seen = sum(score >= 0.5 for score in crowns)
    near = 0.45 * (1 - abs(seen - number) / max(number, seen)) if seen else 0.0
    return exact if exact >= 0.5 else min(0.49, max(exact, near))


def mountains_score(view: View) -> float:
    """Two clear tips."""
    return min(_clear(match, "peak", view.style) for match, _, _ in view.mountains)
