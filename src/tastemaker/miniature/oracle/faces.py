"""Finds the parts of a portrait: the head is always in the same place, its proportions and looks vary."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from tastemaker.miniature.oracle import face_bank
from tastemaker.miniature.oracle.face_maps import (
    MOUTHS,
    backdrop_of,
    dark_map,
    face_region,
    ink_map,
    mouth_map,
    nose_map,
    silhouette,
    skin_map,
)
from tastemaker.miniature.oracle.pixels import (
    by_name,
    colour_distances,
    colour_names,
    distance,
    in_style,
    median,
    without_dither,
)
from tastemaker.miniature.world.description import HAIR_STYLES
from tastemaker.miniature.world.palette import DARK, LENS, MOUTH, PAPER, SKIN_INK, SKIN_RGB
from tastemaker.miniature.world.scene_portrait import EYE_LIFT, FACE_CENTRE

_SKIN_REACH = 45.0  # RGB distance within which a pixel is of the face's colour
_FRINGE = (slice(18, 22), slice(27, 37))
_SHIRT_INSIDE = (slice(59, 62), slice(24, 40))
_BESIDE_MOUTH = 9  # px from the middle of the face beyond which there is only skin before the edge
_REGION = face_region()


@dataclass(frozen=True)
class Face:
    """What was seen of a portrait. `hair`, `eyes` and `mouth` are matches in [0, 1] with the best template of a kind.

    `eyes` holds, for glasses off and on, the matches of the left and the right half; `mouth`, for straight and smiling, the
    match and the strength of colour. `skin_share` is the part of the
    face's area that shows its colour; `proportions` are in px, by the layout's names; all and finely only if measured.
    """

    hair: dict[str, float]
    hair_colours: dict[str, float]
    skins: dict[str, float]
    skin_share: float
    eyes: dict[bool, tuple[float, float]]
    mouth: dict[bool, tuple[float, float]]
    shirts: dict[str, float]
    shirt_purity: float
    hollow: float
    proportions: dict[str, float]


def see_face(pixels: np.ndarray, style: str, measured: bool = False) -> Face:
    """`pixels` are floats in 0..255; `style` tells how the parts would be drawn; `measured` also asks for fine proportions."""
    pixels = without_dither(pixels) if style == "pixel art" else pixels
    kind = face_bank.drawn_style(style)
    lined = style == "line drawing"
    backdrop = backdrop_of(pixels)
    skin, share = _face_colour(pixels, style)
    ground = np.array(PAPER, np.float32) if lined else skin
    chin, chin_values = _chin(pixels, skin, style, kind)
    hair_bank = face_bank.hair_bank(kind)
    matches = hair_bank.match(silhouette(pixels))
    hair = {name: float(matches[hair_bank.values["hair"] == i].max()) for i, name in enumerate(HAIR_STYLES)}
    if measured and not lined:
        chin_values["face_width"] = _face_width(pixels, skin, chin_values)
    skins = _skins(pixels, skin, chin_values, style)
    eyes, eye_values = _eyes(dark_map(pixels, ground, style), ground, style)
    seen = None
    if style == "sepia":  # where hair and frames are as dark as the mouth
        framed = sum(eyes[True]) > sum(eyes[False])
        seen = _mouth_area(chin_values, eye_values["eye_distance"] if framed else 0.0)
    mouth, mouth_values = _mouth(mouth_map(pixels, ground, style), kind, seen)
    nose = {"nose_length": _nose(pixels, ground, skins, style)} if measured else {}
    shirts, purity = _shirt(pixels, backdrop, style)
    return Face(
        hair=hair,
        hair_colours=_hair_colours(pixels, backdrop, style),
        skins=skins,
        skin_share=chin if lined else share,
        eyes=eyes,
        mouth=mouth,
        shirts=shirts,
        shirt_purity=purity,
        hollow=_hollow(pixels),
        proportions=chin_values | eye_values | mouth_values | nose,
    )


def _face_colour(pixels: np.ndarray, style: str) -> tuple[np.ndarray, float]:
    """The colour of the calm parts of the face below the eyes, leaving out features; and the share of them that has it."""
    rows, columns = slice(33, 49), slice(19, 45)
    across = np.abs(pixels[rows, 20:46] - pixels[rows, 18:44]).sum(axis=2)
    down = np.abs(pixels[34:50, columns] - pixels[32:48, columns]).sum(axis=2)
    inside = _REGION[rows, columns]
    area, unrest = pixels[rows, columns][inside], (across + down)[inside]
    calm = area[unrest <= np.percentile(unrest, 45)]
    if style != "sepia":
        features = np.stack([in_style(colour, style) for colour in (DARK, MOUTH, LENS)])
        to_feature = distance(calm[:, None], features[None]).min(axis=1)
        to_skin = distance(calm[:, None], colour_names(style, "skin").rgb[None]).min(axis=1)
        plain = calm[to_skin <= to_feature]
        calm = plain if len(plain) > 20 else calm
    colour = median(calm)
    return colour, float((distance(calm, colour) < _SKIN_REACH).mean())


def _chin(pixels: np.ndarray, skin: np.ndarray, style: str, kind: str) -> tuple[float, dict[str, float]]:
    """Match, width and height of the face; in a line drawing of its outline, in whichever ink."""
    bank = face_bank.chin_bank(kind)
    if style == "line drawing":
        tries = {name: bank.match(ink_map(pixels, np.array(rgb, np.float32))) for name, rgb in SKIN_INK.items()}
    else:
        width = 0.6 * float(np.linalg.norm(skin - face_bank.neck_of(skin)))
        tries = {"": bank.match(skin_map(pixels, skin, float(np.clip(width, 14, 34))))}
    ink = max(tries, key=lambda name: tries[name].max())
    return float(tries[ink].max()), _row(bank, tries[ink], "face_width", "face_height")


def _row(bank: face_bank.Bank, matches: np.ndarray, *keys: str) -> dict[str, float]:
    """The best template's values; their mean where several match equally, as pixel art makes them."""
    best = np.flatnonzero(matches >= matches.max() - 1e-4)
    return {key: float(bank.values[key][best].mean()) for key in keys}


def _face_width(pixels: np.ndarray, skin: np.ndarray, size: dict[str, float]) -> float:
    """From where each row beside and below the mouth leaves the face's colour half way, on both sides."""
    widths = []
    for y in range(40, 46):
        squeeze = np.sqrt(max(1 - ((y + 0.5 - FACE_CENTRE[1]) / (size["face_height"] / 2)) ** 2, 0.1))
        away = distance(pixels[y], skin)
        for side in (away[32:], away[31::-1]):
            steep = int(np.diff(side[_BESIDE_MOUTH : _BESIDE_MOUTH + 10]).argmax()) + _BESIDE_MOUTH
            inner, outer = float(side[max(steep - 2, _BESIDE_MOUTH)]), float(side[steep + 2])
            half = (inner + outer) / 2
            over = int(np.argmax(side[_BESIDE_MOUTH:] > half)) + _BESIDE_MOUTH
            if outer - inner > 20 and side[over] > half:
                before = float(side[over - 1])
                widths.append(2 * (over - (side[over] - half) / max(float(side[over]) - before, 1.0) + 0.5) / squeeze)
    return float(np.clip(np.median(widths), 24, 40)) if len(widths) >= 4 else size["face_width"]


def _skins(pixels: np.ndarray, skin: np.ndarray, size: dict[str, float], style: str) -> dict[str, float]:
    if style != "line drawing":
        names = colour_names(style, "skin")
        return by_name(distance(names.rgb, skin), names)
    names = colour_names(style, "skin ink")
    paper = np.array(PAPER, np.float32)
    line = pixels[_chin_line(round(2 * size["face_width"]), round(2 * size["face_height"]))]
    away = distance(line, paper)
    return by_name(colour_distances(median(line[away >= np.median(away)]), paper, names), names)


@cache
def _chin_line(width_2: int, height_2: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in the middle of the outline of the lower face, given twice its width and height."""
    t = np.radians(np.linspace(30, 150, 41))
    columns = 32 + (width_2 / 4 - 1.5) * np.cos(t)
    rows = 33 + (height_2 / 4 - 1.5) * np.sin(t)
    return np.floor(rows).astype(int), np.floor(columns).astype(int)


def _hair_colours(pixels: np.ndarray, backdrop: np.ndarray, style: str) -> dict[str, float]:
    names = colour_names(style, "hair")
    if style != "line drawing":
        return by_name(distance(names.rgb, median(pixels[_FRINGE].reshape(-1, 3))), names)
    away = distance(pixels, backdrop)
    outside = np.maximum.accumulate(away[:30] > 60, axis=0)  # from the top down to the first line
    rim = outside & ~np.pad(outside, ((3, 0), (0, 0)))[:-3] & (away[:30] > 60)
    if rim.sum() < 20:
        return dict.fromkeys(names.names, 200.0)
    strong = pixels[:30][rim & (away[:30] >= np.percentile(away[:30][rim], 40))]
    return by_name(colour_distances(median(strong), backdrop, names), names)


def _eyes(found: np.ndarray, ground: np.ndarray, style: str) -> tuple[dict[bool, tuple[float, float]], dict[str, float]]:
    skins = colour_names(style, "skin")
    skin = "light" if style == "line drawing" else skins.names[int(distance(skins.rgb, ground).argmin())]
    bank = face_bank.eye_bank(style, skin)
    both = bank.match(found)
    result = {}
    for glasses in (False, True):
        rows = np.flatnonzero(bank.values["glasses"] == glasses)
        winner = bank.maps[rows[both[rows].argmax()]].reshape(found.shape)
        (left, right), (own_left, own_right) = np.split(found, 2, axis=1), np.split(winner, 2, axis=1)
        result[glasses] = (_dice(left, own_left), _dice(right, own_right))
    return result, _row(bank, both, "eye_distance", "eye_radius")


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a * b).sum() / max(float((a * a).sum() + (b * b).sum()), 1e-6))


def _mouth_area(size: dict[str, float], eye_distance: float) -> np.ndarray:
    """The pixels of the mouth's area inside the face and, if there are glasses, outside of their frames."""
    rows, columns = np.mgrid[MOUTHS] + 0.5
    across, down = columns - FACE_CENTRE[0], rows - FACE_CENTRE[1]
    inside = (across / (size["face_width"] / 2 - 1)) ** 2 + (down / (size["face_height"] / 2 - 1)) ** 2 < 1
    frame = (np.abs(across) - eye_distance / 2) ** 2 + (down + EYE_LIFT) ** 2 < (eye_distance / 2 + 0.5) ** 2
    return inside & ~frame if eye_distance else inside


def _mouth(found: np.ndarray, kind: str, seen: np.ndarray | None) -> tuple[dict[bool, tuple[float, float]], dict[str, float]]:
    bank = face_bank.mouth_bank(kind)
    cosines, strengths = bank.alike(found, seen)
    by_kind = {}
    for smile in (False, True):
        rows = np.flatnonzero(bank.values["smile"] == smile)
        best = rows[cosines[rows].argmax()]
        by_kind[smile] = (float(cosines[best]), float(strengths[best]))
    return by_kind, _row(bank, cosines, "mouth_width", "mouth_drop")


def _nose(pixels: np.ndarray, ground: np.ndarray, skins: dict[str, float], style: str) -> float:
    """Length in px; in a line drawing the nose is a shade of a skin that only the ink tells."""
    skin = ground
    if style == "line drawing":
        skin = np.array(SKIN_RGB[min(skins, key=skins.__getitem__)], np.float32)
    bank = face_bank.nose_bank(face_bank.drawn_style(style))
    return float(bank.values["nose_length"][bank.match(nose_map(pixels, ground, skin)).argmax()])


def _shirt(pixels: np.ndarray, backdrop: np.ndarray, style: str) -> tuple[dict[str, float], float]:
    """Distances of the clothing's colour to the names, and the share of it that has the commonest of them."""
    names = colour_names(style)
    area = pixels[face_bank.shirt_mask(face_bank.drawn_style(style))]
    away = colour_distances(area, backdrop, names)
    main = int(np.bincount(away.argmin(axis=1)).argmax())
    purity = float((away.argmin(axis=1) == main).mean())
    return by_name(colour_distances(median(area[away.argmin(axis=1) == main]), backdrop, names), names), purity


def _hollow(pixels: np.ndarray) -> float:
    """Share of the face and of the clothing's inside that is paper white."""
    paper = np.array(PAPER, np.float32)
    white = [float((distance(area, paper) < 36).mean()) for area in (pixels[_REGION], pixels[_SHIRT_INSIDE])]
    return float(np.mean(np.clip((np.array(white) - (0.2, 0.1)) / (0.4, 0.7), 0, 1)))
