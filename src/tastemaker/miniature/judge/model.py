"""The miniature judge's network: the real Qwen3-VL class, small, and how a folder of it is opened for several dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tastemaker.miniature.builder.parts import SIDE
from tastemaker.miniature.builder.tokenizer import special_ids
from tastemaker.miniature.judge.language import MERGE, PATCH, RUBRICS, THINKING, QuickProcessor, build_judge_processor
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.rewards.vlm_folder import VLM, load_vlm

SHIPPED = Path(__file__).parent / "weights"
"""The judge that comes with the package."""
WIDTH, LAYERS = 192, 4
VISION_WIDTH, VISION_DEPTH = 128, 3


def build_judge_model(tokenizer: Any) -> Qwen3VLForConditionalGeneration:
    """About 3 M parameters: 3 vision layers over 8 x 8 patches, 4 decoder layers over 4 x 4 picture tokens and the words."""
    text: dict[str, Any] = {
        **{"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 384, "num_hidden_layers": LAYERS},
        **{"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 32, "max_position_embeddings": 1024},
        **{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
        "tie_word_embeddings": True,
        "rope_parameters": {
            **{"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
        },
    }
    vision = {
        **{"depth": VISION_DEPTH, "hidden_size": VISION_WIDTH, "intermediate_size": 256, "num_heads": 4},
        **{"out_hidden_size": WIDTH, "patch_size": PATCH, "spatial_merge_size": MERGE},
        **{"num_position_embeddings": (SIDE // PATCH) ** 2, "deepstack_visual_indexes": [1]},
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **special_ids(tokenizer))
    return Qwen3VLForConditionalGeneration(config)


def new_judge(seed: int = 0) -> VLM:
    """Untrained."""
    processor = build_judge_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_judge_model(processor.tokenizer)
    return VLM(model.eval(), QuickProcessor(processor))


def open_judges(
    folder: str | Path,
    dimensions: Iterable[str] = tuple(RUBRICS),
    read_out: ReadOut = THINKING,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_pictures: int = 64,
) -> dict[str, VLMJudge]:
    """A judge for each dimension, called by its name; they share one model. See `load_vlm` for what is refused."""
    vlm = load_vlm(folder, device=device, dtype=dtype)
    vlm.processor = QuickProcessor(vlm.processor)
    return {name: VLMJudge(vlm, RUBRICS[name], read_out, name, max_pictures) for name in dimensions}
