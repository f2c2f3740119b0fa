"""Measures a face's proportions, and how far two faces are from being the same."""

import numpy as np

from tastemaker.miniature.oracle.face_maps import face_region
from tastemaker.miniature.oracle.faces import Face, see_face
from tastemaker.miniature.oracle.pixels import as_floats, distance
from tastemaker.miniature.oracle.styles import pixel_art_score, sepia_score
from tastemaker.miniature.world.layout import FACE_RANGES
from tastemaker.miniature.world.palette import PAPER

PROPORTIONS = tuple(FACE_RANGES)
# How far two measurements of one face may be apart, in px: about three standard deviations after a VAE.
TOLERANCES = {
    "face_width": 2.0,
    "face_height": 2.0,
    "eye_distance": 1.1,
    "eye_radius": 0.8,
    "mouth_width": 2.0,
    "mouth_drop": 1.6,
    "nose_length": 1.6,
}
_BLOCKY_TOLERANCE = 2.0  # pixel art rounds every proportion to its blocks
_REGION = face_region()


def identity(picture: np.ndarray) -> np.ndarray | None:
    """The face's proportions in px, in the order of PROPORTIONS; None where no face is to be seen."""
    pixels = as_floats(picture)
    face = see_face(pixels, portrait_style(pixels), measured=True)
    return as_vector(face) if is_face(face) else None


def portrait_style(pixels: np.ndarray) -> str:
    """The style that a portrait is most likely in, from its pixels alone."""
    if sepia_score(pixels) >= 0.5:
        return "sepia"
    if pixel_art_score(pixels) >= 0.5:
        return "pixel art"
    white = (distance(pixels[_REGION], np.array(PAPER, np.float32)) < 36).mean()
    return "line drawing" if white > 0.45 else "plain"


def is_face(face: Face) -> bool:
    """A head's silhouette with two eyes and a mouth in it."""
    eyes = max(min(halves) for halves in face.eyes.values())
    return max(face.hair.values()) > 0.88 and eyes > 0.45 and max(match for match, _ in face.mouth.values()) > 0.55


def as_vector(face: Face) -> np.ndarray:
    return np.array([face.proportions[name] for name in PROPORTIONS])


def unlikeness(one: np.ndarray, two: np.ndarray, styles: tuple[str, str]) -> float:
    """The largest difference of a proportion in units of its tolerance, as far as both styles show it.

    Outlines of hair and face may coincide in a line drawing, so its face is not measured across or along.
    """
    allowed = np.array([TOLERANCES[name] for name in PROPORTIONS]) * (_BLOCKY_TOLERANCE if "pixel art" in styles else 1.0)
    if "line drawing" in styles:
        allowed[[PROPORTIONS.index("face_width"), PROPORTIONS.index("face_height")]] = np.inf
    return float((np.abs(one - two) / allowed).max())
