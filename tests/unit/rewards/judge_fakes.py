"""Judges and questions for tests."""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from tastemaker.rewards.judge import Answer, Question


def picture(number: int = 0, side: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


def questions(count: int, first: int = 0) -> list[Question]:
    return [Question(f"p{n}/0", f"a picture of {n}", picture(n)) for n in range(first, first + count)]


def brightness(question: Question) -> float:
    """A score in [1, 5] that depends on the pixels alone."""
    return 1 + 4 * float(np.asarray(question.picture).mean()) / 255


class BrightnessJudge:
    """Answers with `brightness`; remembers what it was asked, and waits for `gate` if it has one."""

    name, low, high, fingerprint = "brightness", 1.0, 5.0, "brightness-1"

    def __init__(self, gate: threading.Event | None = None):
        self.asked: list[list[str]] = []
        self.gate = gate

    def answer(self, questions):
        self.asked.append([question.text for question in questions])
        if self.gate is not None:
            assert self.gate.wait(10)
        return [Answer(question.id, brightness(question), f"saw {question.text}", 0.99) for question in questions]
