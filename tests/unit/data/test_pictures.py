import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from tastemaker.data.pictures import MAX_BYTES, decode_picture, open_picture, picture_size
from tastemaker.errors import UserMistake

NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content, **options):
    return np.asarray(decode_picture(content, name="row 7", **options))


def png(width, height, depth, colour, rows):
    """A PNG made by hand, for headers that Pillow would not write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_plain_picture_is_itself(tmp_path):
    path = tmp_path / "a.jpg"  # content decides, not the name
    path.write_bytes(encoded(NOISE))
    picture = open_picture(path)
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), NOISE)
    assert np.array_equal(decoded(encoded(NOISE, "WEBP", lossless=True)), NOISE)
    smooth = np.tile(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], (32, 1, 3))
    assert np.abs(decoded(encoded(smooth, "JPEG", quality=95)).astype(int) - smooth).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_applied(tmp_path, orientation, kind):
    """The upright picture has its bright corner top left; the file holds it turned as a camera would have stored it."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "p").write_bytes(encoded(np.ascontiguousarray(stored), kind, exif=exif))
    shown = np.asarray(open_picture(tmp_path / "p"))
    assert picture_size(tmp_path / "p") == open_picture(tmp_path / "p").size
    assert shown.shape == upright.shape and np.abs(shown.astype(int) - upright).mean() < 2


def test_sixteen_bits_become_eight():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    shown = decoded(encoded(ramp))
    assert np.array_equal(shown, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))
    wide = (NOISE.astype(">u2") * 257).reshape(32, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    assert np.array_equal(decoded(png(48, 32, 16, 2, rows)), NOISE)


def test_transparent_parts_lie_on_white():
    half = np.dstack([NOISE, np.full((32, 48), 255, np.uint8)])
    half[:, 24:, 3] = 0
    shown = decoded(encoded(half))
    assert np.array_equal(shown[:, :24], NOISE[:, :24]) and (shown[:, 24:] == 255).all()
    palette = Image.fromarray(np.tile(np.uint8([[0, 1]]), (16, 8)), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    shown = decoded(encoded(palette, transparency=1))
    assert (shown[:, ::2] == (255, 0, 0)).all() and (shown[:, 1::2] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_every_other_mode_becomes_rgb(mode):
    assert decode_picture(encoded(Image.fromarray(NOISE).convert(mode)), name="x").mode == "RGB"


def test_metadata_is_gone():
    exif = Image.Exif()
    exif[0x010E] = "drawn by model A"
    picture = decode_picture(encoded(NOISE, "JPEG", exif=exif, comment=b"model A"), name="x")
    assert not picture.info and not picture.getexif()


def test_a_phones_jpeg_with_a_second_picture_gives_the_first():
    first, second = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    content = encoded(first, "MPO", save_all=True, append_images=[Image.fromarray(second)])
    assert decoded(content).max() == 0


FRAMES = [Image.new("RGB", (16, 16), (80 * i, 0, 0)) for i in range(3)]
REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"hello, world", "not a picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "gif": (encoded(NOISE, "GIF"), "not a picture"),
    "bmp": (encoded(NOISE, "BMP"), "not a picture"),
    "tiff": (encoded(NOISE, "TIFF"), "not a picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "cmyk": (encoded(Image.new("CMYK", (32, 32), (9, 99, 9, 9)), "JPEG"), "CMYK"),
    "moving png": (encoded(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animation of 3"),
    "moving webp": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animation of 3"),
    "1x1": (encoded(np.zeros((1, 1, 3), np.uint8)), "1x1"),
    "thin": (encoded(np.zeros((7, 400, 3), np.uint8)), "400x7"),
    "no pixel": (png(0, 9, 8, 2, b""), "damaged"),
    "bomb": (png(60_000, 60_000, 8, 2, b"\0"), "pixels"),
    "beyond our cap alone": (png(9_000, 9_000, 8, 2, b"\0"), "pixels"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_allowed_is_one_line_with_the_items_name(content, says):
    with pytest.raises(UserMistake) as caught:
        decode_picture(content, name="row 7")
    assert str(caught.value).startswith("row 7: ") and says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_at_any_place_or_damaged_it_is_refused_or_whole(kind):
    """Whatever the bytes are, nothing but UserMistake comes out; a cut in the pixels is always noticed."""
    content = encoded(NOISE, kind)
    rng = np.random.default_rng(1)
    for size in range(0, len(content) * 3 // 4, max(1, len(content) // 40)):
        with pytest.raises(UserMistake):
            decode_picture(content[:size], name="x")
    for _ in range(60):
        broken = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            broken[place] = rng.integers(0, 256)
        with suppress(UserMistake):
            assert decode_picture(bytes(broken), name="x").mode == "RGB"


def test_the_pixel_cap_comes_before_decoding(monkeypatch):
    content = encoded(NOISE)
    assert decoded(content, max_pixels=32 * 48).shape == (32, 48, 3)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(UserMistake, match="48x32 is more than 1,535 pixels"):
        decode_picture(content, name="x", max_pixels=32 * 48 - 1)


def test_files_are_bounded_and_named(tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    for path, says in ((huge, "bytes"), (tmp_path / "absent.png", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(UserMistake, match=says) as caught:
            open_picture(path)
        assert str(path) in str(caught.value)
