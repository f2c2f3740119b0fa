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

from tastemaker.evaluation.files import write_atomically
from tastemaker.evaluation.pixels import as_image

BACKGROUND, INK, MUTED, EMPTY = "#ffffff", "#1c2330", "#667085", "#eef0f4"
RIGHT, WRONG, UNKNOWN = "#0a8f68", "#cf4a0b", "#c5cbd5"
"""Bluish green and vermilion keep apart for colour-blind eyes; a tick or a cross says the same once more."""

FRAME, MARGIN, GAP, SPACE = 4, 28, 10, 26
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "×": "x"})


@dataclass(frozen=True)
class Picture:
    """One picture and what was found: `verdict` True right, False wrong, None not judged; `image` None is a gap."""

    image: Any
    verdict: bool | None = None


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
                raise ValueError(
                    f"case {row} ({case.caption[:40]!r}) has {len(case.pictures)} pictures, the wall has {len(self.titles)} titles"
                )


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
        raise ValueError(f"{len(titles)} titles need as many lists of images and verdicts, got {len(by_model)} and {len(judged)}")
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
    widest, highest = max(w for w, _ in sizes), max(h for _, h in sizes)
    magnify = magnify or max(1, round(160 / max(widest, highest)))
    tile = (widest * magnify + 2 * FRAME, highest * magnify + 2 * FRAME)

    columns = max(1, min(columns, len(wall.cases)))
    count = max(1, len(wall.titles))
    case_width = count * tile[0] + (count - 1) * GAP
    fonts = {"heading": _font(22), "title": _font(14), "caption": _font(15), "note": _font(13)}
    captions = [_lines(case.caption, fonts["caption"], case_width, 4) for case in wall.cases]
    notes = [_lines(case.note, fonts["note"], case_width, 2) if case.note else [] for case in wall.cases]
    head_lines = _lines(wall.heading, fonts["heading"], columns * case_width + (columns - 1) * SPACE, 3) if wall.heading else []
    text_heights = [6 + 20 * len(c) + 17 * len(n) for c, n in zip(captions, notes, strict=True)]
    rows = [range(start, min(start + columns, len(wall.cases))) for start in range(0, len(wall.cases), columns)]

    top = MARGIN + 30 * len(head_lines) + (8 if head_lines else 0)
    height = top + sum(22 + tile[1] + max(text_heights[i] for i in row) + SPACE for row in rows) - SPACE + MARGIN
    width = 2 * MARGIN + columns * case_width + (columns - 1) * SPACE
    canvas = Image.new("RGB", (width, max(height, 2 * MARGIN)), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for line, text in enumerate(head_lines):
        draw.text((MARGIN, MARGIN + 30 * line), text, INK, fonts["heading"])
    for row in rows:
        for column, i in enumerate(row):
            left = MARGIN + column * (case_width + SPACE)
            for m, title in enumerate(wall.titles):
                x = left + m * (tile[0] + GAP)
                draw.text((x, top), _lines(title, fonts["title"], tile[0], 1)[0], MUTED, fonts["title"])
                _draw_tile(canvas, (x, top + 22), tile, images[i][m], wall.cases[i].pictures[m].verdict, magnify)
            y = top + 22 + tile[1] + 6
            for text in captions[i]:
                draw.text((left, y), text, INK, fonts["caption"])
                y += 20
            for text in notes[i]:
                draw.text((left, y), text, MUTED, fonts["note"])
                y += 17
        top += 22 + tile[1] + max(text_heights[i] for i in row) + SPACE
    return canvas


def save_wall(path: str | Path, wall: Wall, *, columns: int = 3, magnify: int | None = None) -> Path:
    """Draw the wall and write it as PNG, whole or not at all."""
    return write_atomically(path, png_bytes(draw_wall(wall, columns=columns, magnify=magnify)))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _known(verdict: Any) -> bool | None:
    return None if verdict is None or verdict != verdict else bool(verdict)  # NaN is not equal to itself


def _draw_tile(
    canvas: Image.Image, at: tuple[int, int], tile: tuple[int, int], image: Image.Image | None, verdict: bool | None, magnify: int
) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = at
    right, bottom = x + tile[0] - 1, y + tile[1] - 1
    colour = UNKNOWN if verdict is None else RIGHT if verdict else WRONG
    draw.rounded_rectangle((x, y, right, bottom), radius=FRAME, fill=EMPTY, outline=colour, width=FRAME if verdict is not None else 1)
    if image is None:
        draw.text(((x + right) / 2, (y + bottom) / 2), "no picture", MUTED, _font(13), anchor="mm")
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


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


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
    return lines or [""]


def _pieces(word: str, font: Any, width: float) -> list[str]:
    if font.getlength(word) <= width:
        return [word]
    return textwrap.wrap(word, max(1, int(width / font.getlength("m"))))
