"""What the miniature judge is told and says: its rubrics, its tokenizer, and a quick encoder of its own chat.

The shipped rubrics are hundreds of words. Here a rubric is its name: a model that knows nothing but this world has learnt what
the name stands for. The sentence by which a read-out asks for an answer is fixed, so the whole of it is one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.builder.tokenizer import CHAT_TEMPLATE, SPECIALS, build_tokenizer
from tastemaker.miniature.raters.rationale import WORDS
from tastemaker.miniature.world.wording import vocabulary
from tastemaker.models.processor_shim import allow_processors_without_torchvision
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.rubrics import Rubric

PATCH, MERGE = 8, 2
"""Side of a patch in px, and patches along a side of what becomes one token: a picture is 4 x 4 tokens."""
PICTURE_TOKENS = (SIDE // PATCH // MERGE) ** 2

DIRECT = ReadOut(chain_of_thought=False)
THINKING = ReadOut(max_rationale_tokens=40)
"""The longest reason has 33 tokens and the stop string."""

_TEXT = "[[picture]]\n[[request]]\n[[answer]]"
RUBRICS = {
    name: Rubric(f"miniature-{name}", 1, f"{name}\n" + "[[sources]]\n" * (name == "instruction") + _TEXT)
    for name in ("alignment", "aesthetic", "portrait", "instruction")
}
"""By dimension."""
DESCRIBE = "describe"
"""The request of the captions that the model learns to see by."""

_WORDS = (*vocabulary(), *WORDS, *RUBRICS, DESCRIBE, "Source", "Score")


def build_judge_processor() -> Qwen3VLProcessor:
    """Every word one token, and one for each fixed sentence and each end of a rationale."""
    allow_processors_without_torchvision()
    tokenizer = build_judge_tokenizer()
    pictures = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": SIDE * SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return Qwen3VLProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def build_judge_tokenizer() -> Qwen2Tokenizer:
    tokenizer = build_tokenizer(tuple(dict.fromkeys(_WORDS)))
    sentences = [DIRECT.instruction, THINKING.instruction, THINKING.start.strip(), THINKING.stop]
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIALS, *sentences]})
    for sentence in sentences:
        if len(tokenizer(sentence).input_ids) != 1:
            raise RuntimeError(f"{sentence!r} is not one token")
    return tokenizer


class QuickProcessor:
    """Encodes chats about 64x64 pictures to the same tensors as the processor it wraps, many times faster; others it passes on.

    A `VLM` with it in the place of its processor is judged by, trained and saved as before.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._picture_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._slots = "<|vision_start|>" + "<|image_pad|>" * PICTURE_TOKENS + "<|vision_end|>"

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> dict[str, Tensor]:
        (message,) = messages
        pictures = [part["image"] for part in message["content"] if part["type"] == "image"]
        if any(picture.size != (SIDE, SIDE) for picture in pictures):
            return dict(self.processor.apply_chat_template(messages, **options))
        words = "".join(self._slots if part["type"] == "image" else part["text"] for part in message["content"])
        chat = f"<|im_start|>{message['role']}\n{words}<|im_end|>\n<|im_start|>assistant\n"
        # Not the backend's own encode: it would keep the `split_special_tokens` of whoever tokenised last.
        ids = self.tokenizer(chat, add_special_tokens=False).input_ids
        row = torch.tensor([ids])
        return {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "pixel_values": patches(np.stack([np.asarray(picture) for picture in pictures])),
            "image_grid_thw": grids(len(pictures)),
            "mm_token_type_ids": (row == self._picture_id).int(),
        }

    def save_pretrained(self, folder: Any) -> None:
        self.processor.save_pretrained(folder)


def patches(pictures: np.ndarray) -> Tensor:
    """uint8 (N, 64, 64, 3) to what the processor makes of them: (N * 64, 3 * 2 * 8 * 8), patches in 2x2 groups."""
    side = SIDE // (PATCH * MERGE)
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = x.reshape(len(pictures), 3, side, MERGE, PATCH, side, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # group row, group column, row, column, channel, y, x
    return x.unsqueeze(6).expand(*x.shape[:6], 2, *x.shape[6:]).reshape(len(pictures) * (SIDE // PATCH) ** 2, -1)


def grids(count: int) -> Tensor:
    """(count, 3): frames, rows and columns of patches of each picture."""
    return torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]] * count)


def as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))
