"""Reads a sign: finds the board, its letters' cells, and the letter that fits each cell best."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from tastemaker.miniature.oracle.pixels import (
    by_name,
    colour_distances,
    colour_names,
    distance,
    in_style,
    median,
    mix,
    without_dither,
)
from tastemaker.miniature.world.canvas import LINE_WIDTH, Canvas
from tastemaker.miniature.world.description import LETTERS, Typography
from tastemaker.miniature.world.layout import TypographyLayout
from tastemaker.miniature.world.letters import LETTER_STROKES
from tastemaker.miniature.world.palette import BOARD_RGB, BOARD_RIM, PAPER
from tastemaker.miniature.world.renderer import BLOCK_PX
from tastemaker.miniature.world.scene_typography import (
    BOARD_CENTRE,
    BOARD_HALF,
    LETTER_PX,
    PIXEL_LETTER_PX,
    RIM,
    letter_boxes,
)

_SHIFTS_X = np.arange(-3.0, 3.01, 0.25)
_SHIFTS_Y = np.arange(-5.0, 5.01, 0.25)
_BESIDE_POST = np.r_[6:26, 38:58]  # columns where the rim is free of the post
_SEARCH_X = np.arange(-2.0, 2.01, 0.5)
_SEARCH_Y = np.arange(-1.0, 1.01, 0.5)
_ORIGIN = 16  # px from the border of the canvas on which templates are drawn
_PAD = 3  # px around a cell in its patch
_REACH = 1.25  # px around a cell whose ink counts against its letter


@dataclass(frozen=True)
class Glyph:
    """One cell of a sign: how well each letter fits, and the colour of the best one's strokes."""

    matches: dict[str, float]
    colours: dict[str, float]

    @property
    def letter(self) -> str:
        return max(self.matches, key=self.matches.__getitem__)


@dataclass(frozen=True)
class Sign:
    """`leftover` is the ink outside of every letter, as a share of one letter's ink; `rim` the board's edge width in px."""

    glyphs: tuple[Glyph, ...]
    leftover: float
    board: np.ndarray
    rim: float
    shift: tuple[float, float]

    @property
    def text(self) -> str:
        return "".join(glyph.letter for glyph in self.glyphs)


def see_sign(pixels: np.ndarray, style: str, number: int | None = None) -> Sign:
    """Reads the number of letters too, unless `number` says how many cells to look at."""
    pixels = without_dither(pixels) if style == "pixel art" else pixels
    brown = _brown(pixels, style)
    shift = _board_shift(brown)
    interior = _interior(shift, style)
    board = median(pixels[interior].reshape(-1, 3))
    ink = _ink(pixels, board, interior, style)
    rim = _rim_width(pixels, board, shift, style)
    if ink is None:
        return Sign((), 0.0, board, rim, shift)
    bare = ink[interior] < 0.08
    if bare.sum() > 50:
        board = median(pixels[interior][bare])
    numbers = _likely_numbers(ink, style) if number is None else (number,)
    best = max((_fit(ink, shift, count, style) for count in numbers), key=lambda fit: fit.quality)
    glyphs = tuple(Glyph(matches, _stroke_colour(pixels, board, mask, style)) for matches, mask in best.letters)
    return Sign(glyphs, best.leftover, board, rim, shift)


def writing(pixels: np.ndarray, style: str) -> np.ndarray:
    """Which pixels of the board are written on; bool (64, 64)."""
    pixels = without_dither(pixels) if style == "pixel art" else pixels
    interior = _interior(_board_shift(_brown(pixels, style)), style)
    ink = _ink(pixels, median(pixels[interior].reshape(-1, 3)), interior, style)
    return np.zeros(pixels.shape[:2], bool) if ink is None else ink > 0.2


def _brown(pixels: np.ndarray, style: str) -> np.ndarray:
    return np.exp(-((distance(pixels, in_style(BOARD_RIM, style)) / 45) ** 2))


@cache
def _bars(half: float, shifts: tuple[float, ...], centre: float) -> np.ndarray:
    """For every shift a profile that is 1 in both rim bars at `half` from the centre, -0.5 just inside them."""
    edges = np.arange(64)

    def cover(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.clip(np.minimum(edges + 1, high[:, None]) - np.maximum(edges, low[:, None]), 0, 1)

    middle = centre + np.array(shifts)
    bars = cover(middle - half, middle - half + RIM) + cover(middle + half - RIM, middle + half)
    inside = cover(middle - half + RIM + 1, middle - half + RIM + 3) + cover(middle + half - RIM - 3, middle + half - RIM - 1)
    return bars - 0.5 * inside


def _board_shift(brown: np.ndarray) -> tuple[float, float]:
    """The rim is brown along its whole length; letters, which in sepia may be as brown, have gaps."""
    y = float(_SHIFTS_Y[(_bars(BOARD_HALF[1], tuple(_SHIFTS_Y), BOARD_CENTRE[1]) @ _lower(brown[:, _BESIDE_POST].T)).argmax()])
    middle = round(BOARD_CENTRE[1] + y)
    columns = _lower(brown[max(middle - 13, 0) : middle + 13])
    x = float(_SHIFTS_X[(_bars(BOARD_HALF[0], tuple(_SHIFTS_X), BOARD_CENTRE[0]) @ columns).argmax()])
    return x, y


def _lower(values: np.ndarray) -> np.ndarray:
    """The lower quartile over the first axis."""
    quarter = len(values) // 4
    return np.partition(values, quarter, axis=0)[quarter]


def _rim_width(pixels: np.ndarray, board: np.ndarray, shift: tuple[float, float], style: str) -> float:
    """Mean width in px of the upper and lower rim, on a pale board."""
    y = BOARD_CENTRE[1] + shift[1]
    brown = mix(pixels, board, in_style(BOARD_RIM, style))
    rows = brown[:, _BESIDE_POST].mean(axis=1)
    upper, lower = round(y - BOARD_HALF[1]), round(y + BOARD_HALF[1])
    return float(rows[max(upper - 2, 0) : upper + 5].sum() + rows[lower - 5 : lower + 2].sum()) / 2


def _interior(shift: tuple[float, float], style: str) -> tuple[slice, slice]:
    """The board without its rim and a pixel of soft edge."""
    inset = (LINE_WIDTH if style == "line drawing" else RIM) + 1.0
    x, y = BOARD_CENTRE[0] + shift[0], BOARD_CENTRE[1] + shift[1]
    rows = slice(max(0, int(np.ceil(y - BOARD_HALF[1] + inset))), int(np.floor(y + BOARD_HALF[1] - inset)))
    columns = slice(max(0, int(np.ceil(x - BOARD_HALF[0] + inset))), int(np.floor(x + BOARD_HALF[0] - inset)))
    return rows, columns


def _ink(pixels: np.ndarray, board: np.ndarray, interior: tuple[slice, slice], style: str) -> np.ndarray | None:
    """How much of each pixel is writing, in [0, 1]; None on an empty board."""
    inner = pixels[interior]
    away = distance(inner, board)
    strongest = float(np.percentile(away, 97))
    if strongest < 18:
        return None
    strokes = away >= 0.8 * strongest
    ink = np.zeros(pixels.shape[:2], np.float32)
    if style == "sepia":
        ink[interior] = mix(inner, board, median(inner[strokes]))
        return ink
    calm = away[away < 0.4 * strongest]
    floor = float(np.median(calm)) if len(calm) else 0.0
    reach = float(np.median(away[strokes]))
    ink[interior] = np.clip((away - 1.3 * floor) / max(reach - 1.3 * floor, 1.0), 0, 1)
    return ink


def _likely_numbers(ink: np.ndarray, style: str) -> tuple[int, ...]:
    """The two numbers of letters whose height is nearest to the ink's."""
    written = np.flatnonzero(np.sort(ink, axis=1)[:, -3:].mean(axis=1) > 0.5)
    tall = written[-1] - written[0] + 1 if len(written) else 0
    heights = {number: height for number, (_, height, _) in _metrics(style).items()}
    if style == "line drawing":  # a thinner pen on the same middle line
        heights = {number: height - pen + LINE_WIDTH for number, (_, height, pen) in _metrics(style).items()}
    return tuple(sorted(heights, key=lambda n: abs(heights[n] - tall))[:2])


def _metrics(style: str) -> dict[int, tuple[float, float, float]]:
    return PIXEL_LETTER_PX if style == "pixel art" else LETTER_PX


@dataclass(frozen=True)
class _Fit:
    """`letters`: matches by letter and the best template on the picture, for each cell."""

    letters: list[tuple[dict[str, float], np.ndarray]]
    leftover: float

    @property
    def quality(self) -> float:
        matches = [max(match.values()) for match, _ in self.letters]
        return float(np.mean(matches)) - 0.3 * min(self.leftover, 1.0)


def _fit(ink: np.ndarray, shift: tuple[float, float], number: int, style: str) -> _Fit:
    """The best letter and offset in each of `number` cells."""
    description = Typography("I" * number, "red", style)
    cells = letter_boxes(description, TypographyLayout(0, "pale", shift))
    letters, drawn = [], np.zeros((64 + 2 * _PAD, 64 + 2 * _PAD), np.float32)
    padded = np.pad(ink, _PAD)
    bank = _bank(number, "plain" if style == "sepia" else style)
    for x0, y0, _, _ in cells:
        left, top = round(x0), round(y0)
        patch = padded[top : top + bank.height, left : left + bank.width].ravel()
        inner = bank.templates @ patch
        energy = bank.windows @ (patch * patch)
        match = 2 * inner / np.maximum(bank.energies + energy[None, :], 1e-6)
        best = match.argmax(axis=1)
        winner = int(match.max(axis=1).argmax())
        template = bank.templates[winner, best[winner]].reshape(bank.height, bank.width)
        mask = np.zeros_like(drawn)
        mask[top : top + bank.height, left : left + bank.width] = template
        drawn = np.maximum(drawn, mask)
        letters.append((dict(zip(LETTERS, match.max(axis=1).tolist(), strict=True)), mask[_PAD:-_PAD, _PAD:-_PAD]))
    halo = _dilated(drawn)[_PAD:-_PAD, _PAD:-_PAD]
    outside = np.clip(ink - halo, 0, 1)
    leftover = float(outside[outside > 0.3].sum()) / max(float(drawn.sum()) / number, 1.0)
    return _Fit(letters, leftover)


def _dilated(mask: np.ndarray) -> np.ndarray:
    field = np.pad(mask, 1)
    rows = np.maximum(np.maximum(field[:-2], field[1:-1]), field[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


@dataclass(frozen=True)
class _Bank:
    """Letters (12) at every offset (S) as flat patches (P): templates (12, S, P), windows (S, P), energies (12, S)."""

    height: int
    width: int
    templates: np.ndarray
    windows: np.ndarray
    energies: np.ndarray


@cache
def _bank(number: int, style: str) -> _Bank:
    """Drawn by the renderer's canvas on a 64 px field, cut to the cell and its margin."""
    pixel = style == "pixel art"
    width, height, pen = _metrics(style)[number]
    side = (int(np.ceil(height)) + 2 * _PAD, int(np.ceil(width)) + 2 * _PAD)
    offsets = [(u, v) for v in _SEARCH_Y for u in _SEARCH_X]
    if pixel:
        offsets = [(float(u), float(v)) for v in range(-2, 3) for u in range(-2, 3)]
    drawn = np.stack(
        [[_drawn(letter, (u, v), (width, height, pen), style, side).ravel() for u, v in offsets] for letter in LETTERS]
    )
    windows = np.stack([_window(u, v, width, height, side).ravel() for u, v in offsets])
    return _Bank(*side, drawn, windows, np.einsum("lsp,lsp->ls", drawn, drawn))


def _drawn(
    letter: str, offset: tuple[float, float], metrics: tuple[float, float, float], style: str, side: tuple[int, int]
) -> np.ndarray:
    """Ink in [0, 1] of one letter; `offset` (x, y) moves it inside its patch."""
    (right, x), (down, y) = ((int(np.floor(shift)), shift % 1) for shift in offset)
    top, left = _ORIGIN - _PAD - down, _ORIGIN - _PAD - right
    return _inked(letter, (x, y), metrics, style)[top : top + side[0], left : left + side[1]]


@cache
def _inked(letter: str, start: tuple[float, float], metrics: tuple[float, float, float], style: str) -> np.ndarray:
    """One letter on a canvas of its own, with its cell's corner at _ORIGIN + `start`; pixel art without its dither."""
    width, height, pen = metrics
    pixel = style == "pixel art"
    canvas = Canvas("pixel art" if pixel else "plain", PAPER, BLOCK_PX["typography"] if pixel else 1)
    corner = _ORIGIN + np.array(start) + pen / 2
    for stroke in LETTER_STROKES[letter]:
        points = np.array(stroke) * (width - pen, height - pen) + corner
        canvas.stroke(points, LINE_WIDTH if style == "line drawing" else pen, (0, 0, 0))
    ink = 1 - canvas.finish()[..., 0].astype(np.float32) / 255
    return (ink > 0.5).astype(np.float32) if pixel else ink


def _window(u: float, v: float, width: float, height: float, side: tuple[int, int]) -> np.ndarray:
    """1 over the cell and _REACH px around it, at one offset."""
    rows, columns = np.arange(side[0]) + 0.5 - _PAD - v, np.arange(side[1]) + 0.5 - _PAD - u
    inside_y = np.clip(np.minimum(rows + _REACH, height + _REACH - rows) + 0.5, 0, 1)
    inside_x = np.clip(np.minimum(columns + _REACH, width + _REACH - columns) + 0.5, 0, 1)
    return np.outer(inside_y, inside_x).astype(np.float32)


def _stroke_colour(pixels: np.ndarray, board: np.ndarray, mask: np.ndarray, style: str) -> dict[str, float]:
    """Distances of the named colours to the median colour of a letter's strokes."""
    core = mask > 0.9
    if core.sum() < 4:
        core = mask > 0.5
    names = colour_names(style)
    return by_name(colour_distances(median(pixels[core]), board, names), names)


def board_whiteness(sign: Sign) -> float:
    """0 for one of the painted boards, 1 for white paper: which of them the board's colour is nearest to."""
    painted = min(float(np.linalg.norm(sign.board - np.array(rgb))) for rgb in BOARD_RGB.values())
    white = float(np.linalg.norm(sign.board - np.array(PAPER)))
    return float(np.clip(0.5 + (painted - white) / 40, 0, 1))
