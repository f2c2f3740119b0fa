"""Opens a picture that anybody may have made: PNG, JPEG or WEBP, told by content and not by name, as plain RGB.

What a viewer would show is what is given: turned as the EXIF orientation says, 16 bits brought to 8, transparent parts on
white. What has no one right reading is refused: animations, and CMYK, whose colours depend on a profile. Colour profiles of RGB
pictures are not applied; their values are taken as sRGB.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tastemaker.errors import UserMistake

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
"""Width times height; more than any camera's 48 million. As RGB this is 150 MB."""
MAX_BYTES = 100_000_000
"""Size of the file."""
MIN_SIDE = 8
"""Pixels; below that there is nothing to see."""


def open_picture(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, decoded, RGB and without metadata. Raises UserMistake, naming the file, for what is not allowed.

    Memory is bounded: file size and pixels are looked at before anything is decoded. The path is opened as it is; one from a
    manifest has to be checked by `tastemaker.data.jsonl.path_mistake` first.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserMistake(f"{path}: cannot be read ({error})") from None
    return decode_picture(content, name=str(path), max_pixels=max_pixels)


def picture_size(path: Path | str) -> tuple[int, int]:
    """Width and height of what `open_picture` gives, by the header alone; of a picture that it opens."""
    with Image.open(path, formats=FORMATS) as picture:
        width, height = picture.size
        on_its_side = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if on_its_side else (width, height)


def elongation(path: Path | str) -> float:
    """The longer side over the shorter one, as `picture_size` reads them."""
    size = picture_size(path)
    return max(size) / min(size)


def decode_picture(content: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_picture`, of the bytes of a file; `name` is what a message calls it."""
    if not content:
        raise UserMistake(f"{name}: the picture is empty (0 bytes); write it again")
    if len(content) > MAX_BYTES:
        raise UserMistake(f"{name}: more than {MAX_BYTES:,} bytes; make the picture smaller")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            refusal = _refusal(picture, max_pixels)
            if refusal is None:
                return _as_rgb(picture)
    except UnidentifiedImageError:
        refusal = f"not a picture in PNG, JPEG or WEBP, or its head is damaged (it begins with {content[:8]!r}); convert it"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        refusal = f"too many pixels ({error}); make it smaller"
    except Exception as error:  # Pillow raises nearly anything on hostile bytes: struct.error, SyntaxError, KeyError ...
        refusal = f"cannot be decoded, it is damaged or cut short ({type(error).__name__}: {error}); write it again"
    raise UserMistake(f"{name}: {refusal}")


def _refusal(picture: Image.Image, max_pixels: int) -> str | None:
    """Why a picture whose header was read is not decoded; None where it is."""
    width, height = picture.size
    if width * height > max_pixels:
        return f"{width}x{height} is more than {max_pixels:,} pixels; make it smaller"
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height} pixels, at least {MIN_SIDE}x{MIN_SIDE}; nothing can be seen in it"
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # MPO: a phone's JPEG with a depth map behind it
        return f"an animation of {picture.n_frames} frames; give one still picture"  # type: ignore[attr-defined]
    if picture.mode == "CMYK":
        return "CMYK, whose colours depend on a printer's profile; convert it to RGB"
    return None


def _as_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips to white
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    picture.info.clear()
    return picture
