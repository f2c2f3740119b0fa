"""Judges an edit: does the output show the target, and is the rest of the source still there?

Pixels outside of what the edit is about are compared after a light blur, on average and in the worst 8 x 8 patch, with
limits that a VAE's round trip passes. A change of style changes every pixel: there only places and proportions count.
"""

import numpy as np
from scipy import ndimage

from tastemaker.miniature.oracle.faces import see_face
from tastemaker.miniature.oracle.general import assign
from tastemaker.miniature.oracle.landscape import landscape_fact_names, score_facts
from tastemaker.miniature.oracle.landscapes import View
from tastemaker.miniature.oracle.likeness import as_vector, is_face, unlikeness
from tastemaker.miniature.oracle.objects import see_objects
from tastemaker.miniature.oracle.pixels import as_floats
from tastemaker.miniature.oracle.reading import PASS, EditReading, Reading, graded, reading
from tastemaker.miniature.oracle.touched import touched
from tastemaker.miniature.oracle.verdicts import read
from tastemaker.miniature.world.canvas import SIZE
from tastemaker.miniature.world.description import Description, General, Landscape, Portrait
from tastemaker.miniature.world.edit_steps import Moved
from tastemaker.miniature.world.edit_things import SIDE_LIMIT

_PATCH = 8
_LEAST_SEEN = 12  # untouched pixels a patch needs to be judged
_MEAN = (0.10, 0.045, 0.015)  # mean absolute difference: score 0, PASS and 1
_WORST = (0.35, 0.16, 0.06)  # the same for the worst patch
_FACES_APART = (2.5, 1.3, 0.6)  # the same for the unlikeness of faces, in units of the tolerances
_NO_FACE = 9.0


def read_edit(
    source: np.ndarray,
    output: np.ndarray,
    source_description: Description,
    target_description: Description,
    moved: Moved | None = None,
) -> EditReading:
    """What `output` shows of the target, and what it kept of `source`.

    `moved` is a move that descriptions cannot tell; without it, one thing may change its place if the things are the same.
    """
    before, after = as_floats(source), as_floats(output)
    target = read_target(output, source_description, target_description, moved)
    preserved = preserved_score(before, after, source_description, target_description, moved)
    apart = _faces_apart(before, after, source_description, target_description)
    if apart is not None:
        preserved = min(preserved, graded(apart, *_FACES_APART))
    kept, verdict = None if apart is None else apart <= 1.0, preserved >= PASS
    return EditReading(target.facts, target.exact, target.partial, preserved, verdict, kept, target.exact and verdict)


def read_target(output: np.ndarray, old: Description, new: Description, moved: Moved | None = None) -> Reading:
    """The facts of the target alone; what the edit takes out of a landscape, and where it moves a thing, are facts too."""
    after = as_floats(output)
    if isinstance(old, Landscape) and isinstance(new, Landscape):
        said = {*landscape_fact_names(new), *(name for name in landscape_fact_names(old) if name != "ground")}
        ordered = ("time", "ground", "weather", "sky body", "trees", "mountains", "style")
        return reading(score_facts(View(after, new.style), after, new, tuple(name for name in ordered if name in said)))
    found = {fact.name: fact.score for fact in read(after / 255, new).facts}
    if moved is not None and isinstance(new, General):
        found["moved"] = _moved_score(after, new, moved)
    return reading(found)


def _moved_score(after: np.ndarray, new: General, moved: Moved) -> float:
    """The thing's centre is in the outer third at the named side."""
    chosen = assign(see_objects(after, new.style).objects, new.objects, new.style != "sepia")
    for thing, seen in zip(new.objects, chosen, strict=True):
        if (thing.shape, thing.colour) == (moved.shape, moved.colour) and seen:
            place = seen.middle[0 if moved.side in ("left", "right") else 1]
            depth = place if moved.side in ("left", "top") else SIZE - place
            return graded(depth, 36, SIDE_LIMIT + 2, SIDE_LIMIT)
    return 0.0


def preserved_score(
    before: np.ndarray, after: np.ndarray, old: Description, new: Description, moved: Moved | None = None
) -> float:
    """In [0, 1], for float pixels in 0..255."""
    change = touched(before, after, old, new, moved)
    if old.style != new.style:
        return change.steady
    mean, worst = _differences(before, after, ~change.mask)
    return min(graded(mean, *_MEAN), graded(worst, *_WORST), change.steady)


def _differences(before: np.ndarray, after: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference in [0, 1] over the pixels `seen`: of all, and of the worst patch."""
    if seen.sum() < _LEAST_SEEN:
        return 0.0, 0.0
    apart = np.abs(ndimage.uniform_filter(before - after, (3, 3, 0))).mean(axis=2) / 255 * seen
    blocks = (SIZE // _PATCH, _PATCH, SIZE // _PATCH, _PATCH)
    sums, counts = apart.reshape(blocks).sum(axis=(1, 3)), seen.reshape(blocks).sum(axis=(1, 3))
    judged = counts >= _LEAST_SEEN
    worst = float((sums[judged] / counts[judged]).max()) if judged.any() else 0.0
    return float(apart.sum() / seen.sum()), worst


def _faces_apart(before: np.ndarray, after: np.ndarray, old: Description, new: Description) -> float | None:
    """Unlikeness of the two faces; None where the source shows none."""
    if not isinstance(old, Portrait) or not isinstance(new, Portrait):
        return None
    faces = see_face(before, old.style, measured=True), see_face(after, new.style, measured=True)
    if not is_face(faces[0]):
        return None
    return unlikeness(as_vector(faces[0]), as_vector(faces[1]), (old.style, new.style)) if is_face(faces[1]) else _NO_FACE
