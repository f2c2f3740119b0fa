"""Picture walls: models side by side on the same prompts and seeds, each picture framed by its verdict.

Small pictures are magnified by whole factors without smoothing, so that every pixel of a 64x64 picture is seen as it is.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tastemaker.evaluation.pixels import as_image
from tastemaker.runtime.folder import make_folder, write_bytes_atomic

BACKGROUND, INK, MUTED, EMPTY = "#ffffff", "#1c2330", "#667085", "#eef0f4"
RIGHT, WRONG, UNKNOWN = "#0a8f68", "#cf4a0b", "#c5cbd5"
"""Bluish green and vermilion keep apart for colour-blind eyes; a tick or a cross says the same once more."""

FRAME, MARGIN, GAP, SPACE, TITLE = 4, 28, 10, 26, 22
PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "×": "x", "·": "/"}
)


@dataclass(frozen=True)
class Picture:
    """One picture and what was found: `verdict` True right, False wrong, None not judged; `image` None is a gap.

    `label`, such as its score, is drawn above it in the place of the wall's title.
    """

    image: Any
    verdict: bool | None = None
    label: str = ""


@dataclass(frozen=True)
class Case:
    """One prompt with a picture of each model, in the order of the wall's titles; `note` is a second, quieter line."""

    caption: str
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True)
class Wall:
    """Cases under one heading; `titles` names the pictures of every case, e.g. ("base", "trained").

    >>> wall = Wall("Two squares", ("base",), (Case("two red squares", (Picture(None),)),))
    """

    heading: str
    titles: tuple[str, ...]
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        for row, case in enumerate(self.cases):
            if len(case.pictures) != len(self.titles):
                found = f"case {row} ({case.caption[:40]!r}) has {len(case.pictures)} pictures"
                raise ValueError(f"{found}, but the wall has {len(self.titles)} titles")


def paired_wall(
    heading: str,
    titles: Sequence[str],
    captions: Iterable[str],
    images: Sequence[Iterable[Any]],
    verdicts: Sequence[Iterable[bool | None]] | None = None,
) -> Wall:
    """A wall from one list per model: `images[m]` are model m's pictures of the captions, `verdicts[m]` their verdicts."""
    captions = list(captions)
    by_model = [list(pictures) for pictures in images]
    judged = [list(v) for v in verdicts] if verdicts is not None else [[None] * len(captions)] * len(titles)
    if len(by_model) != len(titles) or len(judged) != len(titles):
        raise ValueError(f"{len(titles)} titles, but {len(by_model)} lists of images and {len(judged)} of verdicts")
    if {len(x) for x in (*by_model, *judged)} - {len(captions)}:
        raise ValueError(f"{len(captions)} captions need as many pictures and verdicts of every model")
    cases = tuple(
        Case(caption, tuple(Picture(by_model[m][i], _known(judged[m][i])) for m in range(len(titles))))
        for i, caption in enumerate(captions)
    )
    return Wall(heading, tuple(titles), cases)


def draw_wall(wall: Wall, *, columns: int = 3, magnify: int | None = None) -> Image.Image:
    """The wall as one picture, `columns` cases side by side; `magnify` is chosen for tiles near 160 px unless given."""
    if columns < 1 or (magnify is not None and magnify < 1):
        raise ValueError(f"columns and magnify are at least 1, got {columns} and {magnify}")
    images = [[as_image(picture.image) for picture in case.pictures] for case in wall.cases]
    sizes = [image.size for row in images for image in row if image] or [(64, 64)]
    largest = (max(width for width, _ in sizes), max(height for _, height in sizes))
    magnify = magnify or max(1, round(160 / max(largest)))
    tile = (largest[0] * magnify + 2 * FRAME, largest[1] * magnify + 2 * FRAME)

    columns = max(1, min(columns, len(wall.cases)))
    case_width = len(wall.titles) * (tile[0] + GAP) - GAP
    inner = columns * (case_width + SPACE) - SPACE
    heading = _Text(wall.heading, 22, INK, inner, 3)
    texts = [(_Text(case.caption, 15, INK, case_width, 4), _Text(case.note, 13, MUTED, case_width, 2)) for case in wall.cases]
    rows = [range(start, min(start + columns, len(texts))) for start in range(0, len(texts), columns)]
    row_heights = [TITLE + tile[1] + 6 + max(sum(text.height for text in texts[i]) for i in row) + SPACE for row in rows]

    canvas = Image.new("RGB", (inner + 2 * MARGIN, heading.height + 8 + sum(row_heights) - SPACE + 2 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    top = heading.draw(draw, (MARGIN, MARGIN)) + 8
    for row, height in zip(rows, row_heights, strict=True):
        for column, i in enumerate(row):
            left = MARGIN + column * (case_width + SPACE)
            for m, title in enumerate(wall.titles):
                x = left + m * (tile[0] + GAP)
                picture = wall.cases[i].pictures[m]
                _Text(picture.label or title, 14, MUTED, tile[0], 1).draw(draw, (x, top))
                _draw_tile(canvas, (x, top + TITLE), tile, images[i][m], picture.verdict, magnify)
            caption, note = texts[i]
            below = caption.draw(draw, (left, top + TITLE + tile[1] + 6))
            note.draw(draw, (left, below))
        top += height
    return canvas


class _Text:
    """Wrapped lines of one size, measured before they are drawn."""

    def __init__(self, text: str, size: int, colour: str, width: float, most: int) -> None:
        self._font = ImageFont.load_default(size)
        self._lines = _lines(text, self._font, width, most)
        self._step = round(size * 1.32)
        self._colour = colour
        self.height = self._step * len(self._lines)

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[int, int]) -> int:
        """Draw downwards from `at` and return the y below the last line."""
        for place, line in enumerate(self._lines):
            draw.text((at[0], at[1] + place * self._step), line, self._colour, self._font)
        return at[1] + self.height


def save_wall(path: str | Path, wall: Wall, *, columns: int = 3, magnify: int | None = None) -> Path:
    """Draw the wall and write it as PNG, whole or not at all."""
    path = Path(path)
    make_folder(path.parent)
    write_bytes_atomic(path, png_bytes(draw_wall(wall, columns=columns, magnify=magnify)))
    return path


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _known(verdict: Any) -> bool | None:
    return None if verdict is None or verdict != verdict else bool(verdict)  # NaN is not equal to itself


def _draw_tile(
    canvas: Image.Image,
    at: tuple[int, int],
    tile: tuple[int, int],
    image: Image.Image | None,
    verdict: bool | None,
    magnify: int,
) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = at
    right, bottom = x + tile[0] - 1, y + tile[1] - 1
    colour = UNKNOWN if verdict is None else RIGHT if verdict else WRONG
    width = 1 if verdict is None else FRAME
    draw.rounded_rectangle((x, y, right, bottom), radius=FRAME, fill=EMPTY, outline=colour, width=width)
    if image is None:
        draw.text(((x + right) / 2, (y + bottom) / 2), "no picture", MUTED, ImageFont.load_default(13), anchor="mm")
    else:
        enlarged = image.resize((image.width * magnify, image.height * magnify), Image.Resampling.NEAREST)
        canvas.paste(enlarged, (x + (tile[0] - enlarged.width) // 2, y + (tile[1] - enlarged.height) // 2))
    if verdict is not None:
        _draw_mark(canvas, (right - 9, y + 9), verdict, colour)


def _draw_mark(canvas: Image.Image, centre: tuple[int, int], verdict: bool, colour: str) -> None:
    """A tick or a cross in a disc, drawn at four times its size for smooth edges."""
    disc = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    draw = ImageDraw.Draw(disc)
    draw.ellipse((2, 2, 77, 77), fill=colour, outline="white", width=6)
    strokes = [[(23, 42), (35, 54), (57, 28)]] if verdict else [[(27, 27), (53, 53)], [(53, 27), (27, 53)]]
    for stroke in strokes:
        draw.line(stroke, fill="white", width=8, joint="curve")
    disc = disc.resize((20, 20), Image.Resampling.LANCZOS)
    canvas.paste(disc, (centre[0] - 10, centre[1] - 10), disc)


def _drawable(text: str) -> str:
    """The text as far as Pillow's built-in font can draw it: accents and typographic signs become plain ASCII."""
    folded = unicodedata.normalize("NFKD", text.translate(PLAIN))
    bare = "".join(c for c in folded if not unicodedata.combining(c))
    return " ".join("".join(c if c.isascii() else "?" for c in bare if c.isprintable() or c.isspace()).split())


def _lines(text: str, font: Any, width: float, most: int) -> list[str]:
    """The text wrapped to `width` pixels, at most `most` lines, the last ending in "..." if there was more."""
    lines: list[str] = []
    for word in _drawable(text)[:2000].split():
        for piece in _pieces(word, font, width):
            if lines and font.getlength(f"{lines[-1]} {piece}") <= width:
                lines[-1] += f" {piece}"
            else:
                lines.append(piece)
    if len(lines) > most:
        lines = lines[:most]
        while lines[-1] and font.getlength(lines[-1] + "...") > width:
            lines[-1] = lines[-1][:-1].rstrip()
        lines[-1] += "..."
    return lines


def _pieces(word: str, font: Any, width: float) -> list[str]:
    if font.getlength(word) <= width:
        return [word]
    return textwrap.wrap(word, max(1, int(width / font.getlength("m"))))
