"""Tiny random-weight instances of the real pipeline classes, built offline, for tests that need the machinery but no picture.

Weights are scaled so that outputs depend strongly on prompt, source picture and noise level: with the default initialisation
the conditioning moves the velocity by so little that a test comparing two conditionings could not fail.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline, QwenImage21Transformer2DModel
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tastemaker.miniature.builder.parts import build_scheduler
from tastemaker.miniature.builder.tokenizer import build_processor, build_tokenizer, special_ids

WORDS = "a red circle on blue background make it green three squares left of one triangle Picture"
CHANNELS = 8
TEXT_WIDTH = 64


def tiny_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {
        **{"vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 128, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096},
        **{"pad_token_id": tokenizer.pad_token_id, "rope_parameters": rope},
    }
    vision = {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": TEXT_WIDTH},
        **{"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]},
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **special_ids(tokenizer))
    return scaled(Qwen3VLForConditionalGeneration(config), 3.0)


def tiny_vae() -> AutoencoderKLQwenImage21:
    """Latent statistics that are not 0 and 1, so that forgetting them shows."""
    return AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.1 * c - 0.3 for c in range(CHANNELS)],
        latents_std=[0.5 + 0.1 * c for c in range(CHANNELS)],
    )


def tiny_transformer() -> QwenImage21Transformer2DModel:
    model = QwenImage21Transformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        context_in_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return scaled(model, 2.0)


def tiny_qwen_image21(seed: int = 0) -> QwenImage21Pipeline:
    """About 0.5 M parameters in all; 64 x 64 pictures are 16 latent tokens of 8 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(tuple(WORDS.split()))
        pipeline = QwenImage21Pipeline(
            scheduler=build_scheduler(),
            vae=tiny_vae().eval(),
            text_encoder=tiny_text_encoder(tokenizer).eval(),
            processor=build_processor(tokenizer),
            transformer=tiny_transformer().eval(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scaled(module: torch.nn.Module, factor: float) -> Any:
    """All matrices times `factor`."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(factor)
    return module


def picture(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """A smooth random picture."""
    small = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(seed)).mul(255).byte().numpy()
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
