"""Pictures put into words: how the miniature judge's language model learns to say what its eye sees.

A new drawing of the training split and its caption, or an edit's source and target and what was asked for. The model writes the
text after the pictures; no rating and no rated prompt is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tastemaker.miniature.judge.language import DESCRIBE, DIRECT, RUBRICS, as_picture
from tastemaker.miniature.judge.matching import EDITS
from tastemaker.miniature.raters.corruptions import worn
from tastemaker.miniature.world.description import General
from tastemaker.miniature.world.layout import GeneralLayout, sample_layout
from tastemaker.miniature.world.prompts import write_prompt
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import sample, sample_edit
from tastemaker.rewards.readout import QuestionEncoder
from tastemaker.rewards.vlm_folder import VLM
from tastemaker.runtime import seeds
from tastemaker.training.reward_loss import IGNORED, rationale_loss


class Describing:
    """The loss, keyed by seed and step."""

    def __init__(self, vlm: VLM, seed: int) -> None:
        self._vlm, self._seed = vlm, seed
        self._encoder = QuestionEncoder(vlm.processor, RUBRICS["alignment"], DIRECT)

    def loss(self, count: int, step: int, precision: torch.dtype) -> Tensor:
        """(count,) of new drawings of the training split and their captions, or of edits and what was asked for."""
        rows, ends = [], []
        for number in range(count):
            pictures, text = described(seeds.random(self._seed, "caption", step, number))
            shown = [{"type": "image", "image": as_picture(picture)} for picture in pictures]
            content = [{"type": "text", "text": f"{DESCRIBE}\n"}, *shown]
            row = dict(self._vlm.processor.apply_chat_template([{"role": "user", "content": content}]))
            ends.append(self._encoder.ids(f"{text}<|im_end|>"))
            rows.append(_lengthened(row, ends[-1]))
        keep = max(map(len, ends)) + 1
        batch = self._vlm.placed(self._encoder.collate(rows))
        with torch.autocast(self._vlm.device.type, precision, enabled=precision != torch.float32):
            logits_BKV = self._vlm.core(**batch, logits_to_keep=keep, use_cache=False).logits
        labels_BK = torch.full((count, keep), IGNORED, device=logits_BKV.device)
        for place, end in enumerate(ends):
            labels_BK[place, keep - 1 - len(end) : keep - 1] = torch.tensor(end, device=logits_BKV.device)
        return rationale_loss(logits_BKV, labels_BK)


def described(rng: np.random.Generator) -> tuple[list[np.ndarray], str]:
    """A picture and its caption, or an edit's source and target and its instruction, of the training split."""
    if rng.random() < EDITS:
        pair = sample_edit("train", rng)
        target = worn(render(pair.edit.target, pair.target_layout), rng)
        return [render(pair.edit.source, pair.source_layout), target], pair.instruction
    picture, text = captioned(rng)
    return [picture], text


def captioned(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A picture of the training split, often worn, and its caption.

    It is in one wording, and names things from left to right where no relation is said.
    """
    description = sample("train", rng)
    layout = sample_layout(description, rng)
    picture = worn(render(description, layout), rng)
    if isinstance(description, General) and isinstance(layout, GeneralLayout) and description.kind in ("pair", "three"):
        order = np.argsort([x for x, _ in layout.centres])
        description = replace(description, things=tuple(description.things[place] for place in order))
    return picture, write_prompt(description, _FirstWording())


class _FirstWording(np.random.Generator):
    """Draws the first of all options, and no shuffle: a caption has to be one that can be foretold."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, *args, **kwargs):  # type: ignore[no-untyped-def,override]
        return 0

    def random(self, *args, **kwargs):  # type: ignore[no-untyped-def,override]
        return 0.999

    def permutation(self, x, axis=0):  # type: ignore[no-untyped-def,override]
        return np.arange(x)


def _lengthened(row: dict[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """The row with text appended."""
    new = torch.tensor([ids])
    tails = {"input_ids": new, "attention_mask": torch.ones_like(new), "mm_token_type_ids": torch.zeros_like(new).int()}
    return {name: torch.cat([value, tails[name]], 1) if name in tails else value for name, value in row.items()}
