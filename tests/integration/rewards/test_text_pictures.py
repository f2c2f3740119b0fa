"""Text rendering on pictures drawn with the fonts of matplotlib; skipped, saying why, without the extra `ocr`."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from tastemaker.rewards.text_rendering import RapidOcrReader, TextRenderingReward
from tastemaker.types import Prompt

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def reward():
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'tastemaker[ocr]'", exc_type=ImportError)
    return TextRenderingReward(RapidOcrReader())


def drawn(*lines, font="DejaVuSans.ttf", height=40, side=512):
    picture = Image.new("RGB", (side, side), "white")
    draw, face = ImageDraw.Draw(picture), ImageFont.truetype(FONTS / font, height)
    for row, line in enumerate(lines):
        draw.text((side // 25, side // 8 + row * height * 2), line, "black", face)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


def score(reward, asked, images):
    return reward.score(images, [Prompt("1", f'a poster that says "{asked}"')])[0]


@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono-Bold.ttf", "STIXGeneral.ttf"])
def test_well_drawn_text_loses_at_most_one_character_of_eighteen_in_any_font(reward, font):
    """The OCR misreads one character in the bold monospaced font; the others are read without a mistake."""
    bar = 17 / 18 if "Mono" in font else 1
    assert score(reward, "Grand Opening 50% OFF", drawn("Grand Opening", "50% OFF", font=font)) >= bar - 1e-9


def test_order_of_lines_does_not_count(reward):
    assert score(reward, "Grand Opening Sunday", drawn("Sunday", "Grand Opening")) == 1


def test_the_fingerprint_is_that_of_the_package_and_the_confidence(reward):
    assert RapidOcrReader().fingerprint == reward.reader.fingerprint != RapidOcrReader(0.6).fingerprint


def test_small_pictures_are_read(reward):
    assert score(reward, "HELLO", drawn("HELLO", height=14, side=64)) == 1


def test_a_misspelling_costs_its_share_and_no_text_costs_all(reward):
    assert score(reward, "HELLO WORLD", drawn("HELO WORLD")) == pytest.approx(0.9)
    assert score(reward, "HELLO WORLD", drawn()) == 0
