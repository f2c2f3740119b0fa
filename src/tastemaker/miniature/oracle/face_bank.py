"""Templates of faces, made by rendering portraits and taking the maps of `face_maps`."""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from tastemaker.miniature.oracle.face_maps import dark_map, ink_map, mouth_map, nose_map, silhouette, skin_map
from tastemaker.miniature.oracle.pixels import in_style, without_dither
from tastemaker.miniature.world.canvas import DITHER
from tastemaker.miniature.world.description import HAIR_STYLES, Portrait
from tastemaker.miniature.world.layout import FACE_RANGES, PortraitLayout
from tastemaker.miniature.world.palette import NECK_SHADE, PAPER, SKIN_INK, SKIN_RGB
from tastemaker.miniature.world.renderer import render

_MIDDLE = {key: (low + high) / 2 for key, (low, high) in FACE_RANGES.items()}
SKIN_WIDTH = 34.0  # about 0.6 of the distance from a light face to its neck


@dataclass(frozen=True)
class Bank:
    """Templates as rows of `maps`, and what each was drawn with, as columns of `values`."""

    maps: np.ndarray
    energies: np.ndarray
    values: dict[str, np.ndarray]

    def match(self, found: np.ndarray) -> np.ndarray:
        """1 - |m - t|^2 / (|m|^2 + |t|^2) with every template."""
        flat = found.ravel()
        return 2 * (self.maps @ flat) / np.maximum(self.energies + float(flat @ flat), 1e-6)

    def alike(self, found: np.ndarray, seen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Cosine with every template, and how strong the map is compared with it, over the pixels `seen` where given."""
        flat, energies = found.ravel(), self.energies
        if seen is not None:
            flat = flat * seen.ravel()
            energies = np.square(self.maps) @ seen.ravel().astype(np.float32)
        inner = self.maps @ flat
        return inner / np.sqrt(np.maximum(energies * float(flat @ flat), 1e-6)), inner / np.maximum(energies, 1e-6)


def _bank(maps: list[np.ndarray], rows: list[dict]) -> Bank:
    flat = np.stack([found.ravel() for found in maps]).astype(np.float32)
    return Bank(flat, np.einsum("nd,nd->n", flat, flat), {key: np.array([row[key] for row in rows]) for key in rows[0]})


def drawn_style(style: str) -> str:
    """The style whose pictures serve as templates: sepia has the geometry of plain."""
    return "plain" if style == "sepia" else style


def _picture(portrait: Portrait, **proportions: float) -> np.ndarray:
    pixels = render(portrait, PortraitLayout(0, **{**_MIDDLE, **proportions})).astype(np.float32)
    return without_dither(pixels) if portrait.style == "pixel art" else pixels


def _steps(key: str, step: float) -> np.ndarray:
    low, high = FACE_RANGES[key]
    return np.arange(low, high + 1e-6, step)


@cache
def hair_bank(style: str) -> Bank:
    """Silhouettes of every hair style around faces of all sizes; `hair` is the index into HAIR_STYLES."""
    maps, rows = [], []
    sizes = itertools.product(_steps("face_width", 1.25), _steps("face_height", 1.75))
    for (width, height), (index, hair) in itertools.product(sizes, enumerate(HAIR_STYLES)):
        portrait = Portrait("dark", hair, None if hair == "bald" else "black", "blue", style=style)
        maps.append(silhouette(_picture(portrait, face_width=width, face_height=height)))
        rows.append({"hair": index, "face_width": width, "face_height": height})
    return _bank(maps, rows)


@cache
def chin_bank(style: str) -> Bank:
    """Skin maps of the lower face for all widths and heights."""
    maps, rows = [], []
    lined = style == "line drawing"
    skin = np.array((SKIN_INK if lined else SKIN_RGB)["light"], np.float32)
    for width, height in itertools.product(_steps("face_width", 1.0), _steps("face_height", 0.5)):
        picture = _picture(Portrait("light", "bald", None, "blue", style=style), face_width=width, face_height=height)
        maps.append(ink_map(picture, skin) if lined else skin_map(picture, skin, SKIN_WIDTH))
        rows.append({"face_width": width, "face_height": height})
    return _bank(maps, rows)


@cache
def eye_bank(style: str, skin: str) -> Bank:
    """Dark maps of eyes with and without glasses; on dark skin lenses stand out more."""
    maps, rows = [], []
    ground = in_style(PAPER if style == "line drawing" else SKIN_RGB[skin], style)
    grid = itertools.product((False, True), _steps("eye_distance", 0.5), np.linspace(*FACE_RANGES["eye_radius"], 4))
    for glasses, apart, radius in grid:
        picture = _picture(Portrait(skin, "bald", None, "blue", glasses, style=style), eye_distance=apart, eye_radius=radius)
        maps.append(dark_map(picture, ground, style))
        rows.append({"glasses": glasses, "eye_distance": apart, "eye_radius": radius})
    return _bank(maps, rows)


@cache
def mouth_bank(style: str) -> Bank:
    """Mouth maps of smiles and straight mouths."""
    maps, rows = [], []
    ground = np.array(PAPER if style == "line drawing" else SKIN_RGB["light"], np.float32)
    grid = itertools.product((False, True), _steps("mouth_width", 1.0), _steps("mouth_drop", 0.5))
    for smile, width, drop in grid:
        portrait = Portrait("light", "bald", None, "blue", smile=smile, style=style)
        maps.append(mouth_map(_picture(portrait, mouth_width=width, mouth_drop=drop), ground, "plain"))
        rows.append({"smile": smile, "mouth_width": width, "mouth_drop": drop})
    return _bank(maps, rows)


def neck_of(skin: np.ndarray) -> np.ndarray:
    return NECK_SHADE * skin


@cache
def nose_bank(style: str) -> Bank:
    """Nose maps for all lengths."""
    maps, rows = [], []
    ground = np.array(PAPER if style == "line drawing" else SKIN_RGB["light"], np.float32)
    for length in _steps("nose_length", 0.25):
        picture = _picture(Portrait("light", "bald", None, "blue", smile=False, style=style), nose_length=length)
        maps.append(nose_map(picture, ground, np.array(SKIN_RGB["light"], np.float32)))
        rows.append({"nose_length": length})
    return _bank(maps, rows)


@cache
def shirt_mask(style: str) -> np.ndarray:
    """The pixels that the clothing colours fully: those that differ between red and blue clothing; bool (64, 64)."""
    red, blue = (_picture(Portrait("tan", "bald", None, colour, style=style)) for colour in ("red", "blue"))
    change = np.abs(red - blue).sum(axis=2)
    return change > change.max() - 4 * DITHER
