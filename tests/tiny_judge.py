"""Tiny random-weight instances of the real vision-language classes that judge pictures, built and saved offline.

Weights are scaled so that the score depends strongly on picture and words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
)

from tastemaker.miniature.builder.tokenizer import CHAT_TEMPLATE, build_tokenizer, special_ids
from tastemaker.models.processor_shim import allow_processors_without_torchvision
from tastemaker.rewards.judge import Question
from tastemaker.rewards.rubrics import Rubric
from tastemaker.rewards.vlm_folder import VLM
from tiny import picture, scaled, tiny_text_encoder

WORDS = "a red circle on blue background think Score picture request First then write one line digit from between and you see"
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")
RUBRIC = Rubric("tiny", 1, "The picture:\n[[picture]]\nThe request:\n[[request]]\n[[answer]]\n")
EDIT_RUBRIC = Rubric("tinyedit", 1, "[[sources]]\nThe picture:\n[[picture]]\nThe request:\n[[request]]\n[[answer]]\n")


def tiny_vlm(family: str = "qwen3_vl", seed: int = 0) -> VLM:
    """About 0.3 M parameters; a 64 x 64 picture is 4 tokens."""
    allow_processors_without_torchvision()
    tokenizer = build_tokenizer(tuple(WORDS.split()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = {"qwen2_5_vl": _qwen2_5, "qwen3_vl": tiny_text_encoder, "qwen3_5": _qwen3_5}[family](tokenizer)
    patch, kind = (14, Qwen2_5_VLProcessor) if family == "qwen2_5_vl" else (16, Qwen3VLProcessor)
    pictures = Qwen2VLImageProcessorPil(patch_size=patch, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64})
    return VLM(model.eval(), kind(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE))


def save(vlm: VLM, folder: Path) -> Path:
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def question(nth: int, text: str = "a red circle", sources: int = 0) -> Question:
    pictures = tuple(picture(100 + 10 * nth + at, 64, 64) for at in range(sources))
    return Question(f"q{nth}", text, picture(nth, 64, 64), pictures)


def _text(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        **{"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
        **{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
    }


def _qwen2_5(tokenizer: Qwen2Tokenizer) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLConfig(
        text_config={**_text(tokenizer), "num_hidden_layers": 2, "rope_parameters": rope},
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
            **{"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        },
        tie_word_embeddings=True,
        **special_ids(tokenizer),
    )
    return scaled(Qwen2_5_VLForConditionalGeneration(config), 3.0)


def _qwen3_5(tokenizer: Qwen2Tokenizer) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = Qwen3_5Config(
        text_config={
            **_text(tokenizer),
            **{"num_hidden_layers": 4, "head_dim": 16, "rope_parameters": {**rope, "partial_rotary_factor": 0.5}},
            **{"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
        },
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
            **{"patch_size": 16, "num_position_embeddings": 256},
        },
        tie_word_embeddings=True,
        **special_ids(tokenizer),
    )
    return scaled(Qwen3_5ForConditionalGeneration(config), 3.0)
