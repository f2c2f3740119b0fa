"""Reads a portrait against its description."""

import numpy as np

from tastemaker.miniature.oracle.faces import Face, see_face
from tastemaker.miniature.oracle.pixels import colour_score
from tastemaker.miniature.oracle.reading import graded
from tastemaker.miniature.oracle.styles import style_score
from tastemaker.miniature.world.description import Portrait


def portrait_fact_names(description: Portrait) -> tuple[str, ...]:
    """Stable names of the facts, in the order of `portrait_scores`."""
    sepia = description.style == "sepia"
    names = [] if sepia else ["skin"]
    names.append("hair style")
    if not sepia and description.hair_colour:
        names.append("hair colour")
    names += ["glasses", "smile"]
    if not sepia:
        names.append("clothing")
    return (*names, "style")


def portrait_scores(pixels: np.ndarray, description: Portrait) -> dict[str, float]:
    """Scores by fact name, for float pixels in 0..255."""
    face = see_face(pixels, description.style)
    scores = {
        "skin": min(colour_score(face.skins, description.skin), graded(face.skin_share, 0.3, 0.6, 0.8)),
        "hair style": hair_score(face, description.hair_style),
        "glasses": glasses_score(face, description.glasses),
        "smile": smile_score(face, description.smile),
        "clothing": min(colour_score(face.shirts, description.clothing), graded(face.shirt_purity, 0.4, 0.75, 0.9)),
        "style": style_score(pixels, description.style, face.hollow) if max(face.hair.values()) > 0.85 else 0.0,
    }
    if description.hair_colour:
        scores["hair colour"] = colour_score(face.hair_colours, description.hair_colour)
    return {name: scores[name] for name in portrait_fact_names(description)}


def hair_score(face: Face, hair_style: str) -> float:
    rival = max(match for name, match in face.hair.items() if name != hair_style)
    own = face.hair[hair_style]
    return min(graded(own, 0.8, 0.95, 0.985), graded(own - rival, -0.06, 0.002, 0.012))


def glasses_score(face: Face, glasses: bool) -> float:
    """Both eyes must agree: half a pair of glasses is neither."""
    own, rival = face.eyes[glasses], face.eyes[not glasses]
    return min(
        min(graded(match, 0.4, 0.65, 0.85) for match in own),
        min(graded(a - b, -0.4, 0.05, 0.2) for a, b in zip(own, rival, strict=True)),
    )


def smile_score(face: Face, smile: bool) -> float:
    (own, strength), (rival, _) = face.mouth[smile], face.mouth[not smile]
    clear = min(graded(own, 0.5, 0.72, 0.88), graded(strength, 0.15, 0.4, 0.65))
    return min(clear, graded(own - rival, -0.25, 0.02, 0.12))
