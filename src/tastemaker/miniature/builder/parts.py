"""The parts of the miniature: the real Qwen-Image-2.1 classes of diffusers and transformers, in small configurations.

Sizes are chosen for a CPU: a 64x64 picture is 4x4 latent tokens of 64 channels, the same 16x compression and token layout
as the real model, with a transformer of 2.3 M parameters instead of 20 B.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage21, FlowMatchEulerDiscreteScheduler, QwenImage21Transformer2DModel
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

SIDE = 64
"""Height and width of every picture, in pixels."""
LATENT_CHANNELS = 64
WIDTH = 160
LAYERS = 6
TEXT_WIDTH = 96


def build_vae(mean: list[float] | None = None, std: list[float] | None = None) -> AutoencoderKLQwenImage21:
    """16x: a patch of 8 pixels, then one halving. RGBA in and out, as the real one; alpha is always 1 here."""
    return AutoencoderKLQwenImage21(
        base_dim=96,
        decoder_base_dim=96,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False],
        is_residual=False,
        in_channels=4 * 8 * 8,
        out_channels=4 * 8 * 8,
        patch_size=8,
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
    )


def build_transformer() -> QwenImage21Transformer2DModel:
    """Residual branches start closed (zero output projections and modulation), which is what makes a high rate stable."""
    model = QwenImage21Transformer2DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        context_in_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.norm_out.linear.weight)
    return model


def build_text_encoder(vocabulary: int, token_ids: dict[str, int], pad: int, end: int) -> Qwen3VLForConditionalGeneration:
    """One decoder layer over trained word embeddings, and a one-layer vision tower for the source picture of an edit."""
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "pad_token_id": pad,
        "eos_token_id": end,
        "bos_token_id": None,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 2,
        "out_hidden_size": TEXT_WIDTH,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **token_ids)
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Qwen-Image's published schedule."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift=1.0,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
    )
