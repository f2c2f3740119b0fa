"""The simulated raters themselves: each with a severity, a spread, a noise and a liking of its own.

    perceived = 3 + spread (truth - 3) + severity + liking + noise * N(0, 1),  score = perceived, rounded, within 1 to 5

A pair is decided at the first of the priorities (asked content > structure > texture > appeal) on which the two perceived
values are more than a margin apart. All randomness is keyed by seed, rater, picture and dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tastemaker.data.votes import Choice
from tastemaker.miniature.raters.truth import Truth, aesthetic
from tastemaker.runtime import seeds

PRIORITIES = ("instruction", "alignment", "fidelity", "quality", "aesthetic")
"""Image-text consistency, structural distortion, texture, appeal; a task has the first or the second."""
MARGINS = {"instruction": 0.7, "alignment": 0.7, "fidelity": 0.8, "quality": 0.6, "aesthetic": 0.3}
_SEVERITY, _LIKING = 0.35, 0.2  # standard deviations over raters, in points
_NOISE, _SPREAD = (0.25, 0.55), (0.85, 1.15)
_AT_A_GLANCE = 0.6  # a pair is looked at with less noise than a score is given: side by side, no scale to remember


@dataclass(frozen=True)
class Rater:
    """A simulated rater. `likings` are in points, by category of pictures."""

    name: str
    severity: float
    spread: float
    noise: float
    likings: dict[str, float]

    def perceives(self, truth: float, category: str, noise: float) -> float:
        return 3 + self.spread * (truth - 3) + self.severity + self.likings.get(category, 0.0) + self.noise * noise


def panel(size: int, seed: int) -> list[Rater]:
    """`size` raters called sim-00, sim-01, ...; the severities of a panel sum to zero."""
    rng = seeds.random(seed, "panel", size)
    severities = rng.normal(0, _SEVERITY, size)
    severities -= severities.mean()
    return [
        Rater(
            name=f"sim-{number:02d}",
            severity=float(severity),
            spread=float(rng.uniform(*_SPREAD)),
            noise=float(rng.uniform(*_NOISE)),
            likings={name: float(rng.normal(0, _LIKING)) for name in ("general", "portrait", "landscape", "typography")},
        )
        for number, severity in enumerate(severities)
    ]


def chosen(raters: Sequence[Rater], count: int, seed: int, picture: str) -> list[Rater]:
    """The `count` raters who see a picture. Raises ValueError where the panel is smaller."""
    if count > len(raters):
        raise ValueError(f"{count} raters a picture of a panel of {len(raters)}; enlarge the panel")
    places = seeds.random(seed, "chosen", picture).permutation(len(raters))[:count]
    return [raters[place] for place in sorted(places)]


def score(rater: Rater, truth: Truth, dimension: str, category: str, picture: str, seed: int) -> int:
    """1 to 5. The aesthetic score follows from the rater's own quality and fidelity by the rubric's rule."""
    if dimension == "aesthetic":
        own = [score(rater, truth, part, category, picture, seed) for part in ("quality", "fidelity")]
        return int(np.floor(aesthetic(*map(float, own)) + 0.5))
    noise = seeds.random(seed, "score", rater.name, picture, dimension).standard_normal()
    return int(np.clip(np.rint(rater.perceives(truth.scores[dimension], category, noise)), 1, 5))


def choice(rater: Rater, left: tuple[str, Truth], right: tuple[str, Truth], seed: int) -> Choice:
    """Between two (picture, truth) of one prompt. Exchanging the sides exchanges the choice."""
    for dimension in PRIORITIES:
        if dimension in left[1].scores:
            one, two = (
                truth.scores[dimension]
                + _AT_A_GLANCE * rater.noise * seeds.random(seed, "vote", rater.name, picture, dimension).standard_normal()
                for picture, truth in (left, right)
            )
            if abs(one - two) > MARGINS[dimension]:
                return "left" if one > two else "right"
    return "tie"
