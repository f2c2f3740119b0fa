"""What is true of a picture, on the raters' scale of 1 to 5: the oracle's facts and measures, and the raters' common taste.

    alignment     facts by the rubric's priorities: a failure high up caps the score
    quality       clean drawing (0.65), taste (0.35)           fidelity   what is drawn is whole and well formed
    aesthetic     the mean of the two, at most one above the lower
    portrait      parts of the face (0.7, half of it the worst part), clean drawing (0.15), charm (0.15)
    instruction   asked changes made, core before non-core, and everything else kept

This is what a judge is measured against, never what it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tastemaker.miniature.oracle import quality, read, read_edit
from tastemaker.miniature.oracle.faces import Face, see_face
from tastemaker.miniature.oracle.landscapes import View
from tastemaker.miniature.oracle.likeness import is_face
from tastemaker.miniature.oracle.objects import see_objects
from tastemaker.miniature.oracle.pixels import as_floats, without_dither
from tastemaker.miniature.oracle.reading import EditReading, Fact, graded
from tastemaker.miniature.oracle.signs import see_sign
from tastemaker.miniature.raters.taste import charming, pleasing
from tastemaker.miniature.world.description import Description, General
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import Item

DIMENSIONS = ("alignment", "quality", "fidelity", "aesthetic", "portrait", "instruction")
OBJECTS, ATTRIBUTES, RELATIONS, ACTIONS = range(4)
CAPS = {OBJECTS: 2.0, ATTRIBUTES: 3.0, RELATIONS: 4.0, ACTIONS: 4.0}
"""Highest score with a failure of this priority, as rubrics/alignment.v1.md has it."""
ASKED_RELATION = 3.0
"""The same for a relation in a prompt that is mainly about it."""

_OBJECT_FACTS = ("count", "no extra objects", "letters", "sky body", "trees", "mountains", "ground", "glasses")
_TOO_MANY = 6  # objects in a general scene beyond which it is litter
_WORST_PART = 0.5  # share of the worst part of a face in the score of all
_UNTOUCHED = 0.01  # mean absolute difference in [0, 1] below which an edit has changed nothing


@dataclass(frozen=True)
class Truth:
    """`scores` holds the dimensions that apply, each in [1, 5]; `facts` are in order of priority, for an edit only the asked.

    `parts` are a face's, in [0, 1]; `kept` is an edit's preserved score.
    """

    scores: dict[str, float]
    facts: tuple[Fact, ...]
    parts: dict[str, float]
    kept: float | None = None


def truth_of(item: Item, picture: np.ndarray, source: np.ndarray | None = None) -> Truth:
    """Of uint8 (64, 64, 3); an edit's item needs the `source` picture."""
    pixels, description = as_floats(picture), item.description
    face = see_face(pixels, description.style) if description.category == "portrait" else None
    parts = face_parts(face, without_dither(pixels) if description.style == "pixel art" else pixels) if face else {}
    clean = float(np.clip((quality(picture, description.style) - 0.2) / 0.75, 0, 1))
    scores = {
        "quality": 1 + 4 * (0.65 * clean + 0.35 * pleasing(pixels)),
        "fidelity": 1 + 4 * structure(pixels, description, parts),
    }
    scores["aesthetic"] = aesthetic(scores["quality"], scores["fidelity"])
    if item.pair is not None:
        if source is None:
            raise ValueError(f"item {item.id} is an edit: give its source picture")
        return _edit_truth(item, picture, source, scores, parts)
    reading = read(picture, description)
    facts = tuple(sorted(reading.facts, key=lambda fact: priority(fact.name)))
    scores["alignment"] = alignment(facts, description)
    if face:
        scores["portrait"] = portrait(face, parts, clean)
    return Truth(scores, facts, parts)


def priority(fact: str) -> int:
    """OBJECTS, ATTRIBUTES, RELATIONS or ACTIONS."""
    if fact.endswith("shape") or fact in _OBJECT_FACTS:
        return OBJECTS
    if fact in ("relation", "moved"):
        return RELATIONS
    return ACTIONS if fact == "smile" else ATTRIBUTES


def alignment(facts: Sequence[Fact], description: Description) -> float:
    """The cap of the worst failure, less the share of the other facts that fail too; 1 where no object is right."""
    failed = [priority(fact.name) for fact in facts if not fact.verdict]
    if not failed:
        return 5.0
    caps = dict(CAPS)
    if isinstance(description, General) and description.kind == "relation":
        caps[RELATIONS] = ASKED_RELATION
    objects = [fact.verdict for fact in facts if priority(fact.name) == OBJECTS]
    if objects and not any(objects):
        return 1.0
    return max(1.0, min(caps[one] for one in failed) - (len(failed) - 1) / max(1, len(facts) - 1))


def aesthetic(quality: float, fidelity: float) -> float:
    """The rule of rubrics/aesthetic.v1.md."""
    return min((quality + fidelity) / 2, min(quality, fidelity) + 1)


def portrait(face: Face, parts: dict[str, float], clean: float) -> float:
    if not is_face(face):
        return 1.0
    whole = _WORST_PART * min(parts.values()) + (1 - _WORST_PART) * float(np.mean(list(parts.values())))
    return 1 + 4 * (0.7 * whole + 0.15 * clean + 0.15 * charming(face))


def face_parts(face: Face, pixels: np.ndarray) -> dict[str, float]:
    """How well each part is formed, in [0, 1], whatever was asked for."""
    eyes = max((min(halves) for halves in face.eyes.values()), default=0.0)
    mouth = max(min(match, graded(strength, 0, 0.5, 0.7)) for match, strength in face.mouth.values())
    apart = np.abs(pixels[18:52, 14:50] - pixels[18:52, 49:13:-1]).mean() / 255
    return {
        "eyes": graded(eyes, 0.3, 0.6, 0.8),
        "mouth": graded(mouth, 0.4, 0.65, 0.82),
        "hair": graded(max(face.hair.values()), 0.8, 0.93, 0.975),
        "balance": graded(float(apart), 0.12, 0.05, 0.015),
    }


def structure(pixels: np.ndarray, description: Description, parts: dict[str, float]) -> float:
    """In [0, 1]: whether things of the description's category are whole and well formed, asked for or not."""
    match description.category:
        case "portrait":
            return 0.5 * min(parts.values()) + 0.5 * float(np.mean(list(parts.values())))
        case "general":
            scene = see_objects(pixels, description.style)
            found = [graded(s.confidence, 0.5, 0.8, 0.92) * graded(s.purity, 0.3, 0.7, 0.9) for s in scene.objects]
            litter = 0.8**scene.stains * _TOO_MANY / max(_TOO_MANY, len(found))
            return litter * (0.5 * min(found) + 0.5 * float(np.mean(found))) if found else 0.0
        case "typography":
            sign = see_sign(pixels, description.style)
            clear = [graded(max(glyph.matches.values()), 0.5, 0.75, 0.9) for glyph in sign.glyphs]
            return graded(sign.leftover, 0.7, 0.3, 0.1) * float(np.mean(clear)) if clear else 0.0
    view = View(pixels, description.style)
    return min(graded(layer.share, 0.1, 0.35, 0.6) for layer in (view.sky, view.ground))


def _edit_truth(
    item: Item, picture: np.ndarray, source: np.ndarray, scores: dict[str, float], parts: dict[str, float]
) -> Truth:
    assert item.pair is not None
    edit = item.pair.edit
    reading = read_edit(source, picture, edit.source, edit.target, edit.moved)
    asked, core = asked_facts(item)
    changed = float(np.abs(as_floats(picture) - as_floats(source)).mean()) / 255 > _UNTOUCHED
    scores["instruction"] = instruction(reading, asked, core, changed)
    facts = tuple(fact for fact in reading.facts if fact.name in asked)
    return Truth(scores, tuple(sorted(facts, key=lambda fact: fact.name not in core)), parts, reading.preserved)


@lru_cache(maxsize=4096)
def asked_facts(item: Item) -> tuple[frozenset[str], frozenset[str]]:
    """Facts of the target that the untouched source fails, and those of them that are the core.

    In a compound edit the core are the facts that the source also fails of what the core alone would give.
    """
    assert item.pair is not None
    edit = item.pair.edit
    source = render(edit.source, item.pair.source_layout)
    untouched = read_edit(source, source, edit.source, edit.target, edit.moved)
    asked = frozenset(fact.name for fact in untouched.facts if not fact.verdict)
    if edit.middle is None:
        return asked, asked
    of_core = read_edit(source, source, edit.source, edit.middle, edit.moved)
    core = asked & {fact.name for fact in of_core.facts if not fact.verdict}
    return asked, core or asked


def instruction(reading: EditReading, asked: frozenset[str], core: frozenset[str], changed: bool) -> float:
    """The steps of rubrics/instruction.v1.md, with the share of what holds in between."""
    holds = {fact.name: fact.verdict for fact in reading.facts}
    core_share = _share(holds, core)
    kept = min(1.0, 2 * reading.preserved) if not reading.preserved_verdict else 1.0
    if core_share == 0:
        return 1.0 if not changed or reading.preserved == 0 else 1.0 + 0.5 * kept
    if core_share < 1:
        return 1.5 + 0.3 * core_share + 0.2 * kept
    rest = _share(holds, frozenset(holds) - core)
    if rest < 1 or not reading.preserved_verdict:
        return 2.5 + 0.75 * rest + 0.5 * kept
    return 4.0 + (reading.preserved - 0.5) / 0.5


def _share(holds: dict[str, bool], names: frozenset[str]) -> float:
    """Of the named facts, those that hold; 1 where there are none."""
    return sum(holds.get(name, False) for name in names) / len(names) if names else 1.0
