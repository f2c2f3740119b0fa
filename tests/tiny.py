"""Tiny random-weight instances of the real pipeline classes, built offline, for tests that need the machinery but no picture.

Weights are scaled so that outputs depend strongly on prompt, source picture and noise level: with the default initialisation
the conditioning moves the velocity by so little that a test comparing two conditionings could not fail.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tastemaker.miniature.builder.parts import build_scheduler
from tastemaker.miniature.builder.tokenizer import CHAT_TEMPLATE, build_processor, build_tokenizer, special_ids
from tastemaker.models.processor_shim import allow_processors_without_torchvision

WORDS = "a red circle on blue background make it green three squares left of one triangle Picture"
TEMPLATE_WORDS = """
    Describe the image by detailing the color shape size texture quantity text spatial relationships of the objects and
    background Describe the key features of the input image then explain how the user's text instruction should alter or
    modify the image Generate a new image that meets the user's requirements while maintaining consistency with the original
    input where appropriate"""
"""Of Qwen-Image's pipelines, which drop a fixed number of tokens: spelt in letters, most of the template would stay."""
CHANNELS = 8
PACKED_CHANNELS = 4 * 4
"""Of a latent token of Qwen-Image: 2 x 2 latents of 4 channels."""
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


def tiny_qwen_image(seed: int = 0) -> QwenImagePipeline:
    """About 1 M parameters in all; 64 x 64 pictures are 16 latent tokens of 16 channels."""
    return _two_stream(QwenImagePipeline, seed)


def tiny_qwen_image_edit_plus(seed: int = 0, zero_cond_t: bool = False) -> QwenImageEditPlusPipeline:
    """`zero_cond_t` as in Qwen-Image-Edit-2511. The pipeline resizes its sources to a million pixels: see `small_sources`."""
    return _two_stream(QwenImageEditPlusPipeline, seed, zero_cond_t)


def _two_stream(kind: Any, seed: int, zero_cond_t: bool = False) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(tuple(re.findall("[A-Za-z]+", WORDS + TEMPLATE_WORDS)))
        parts = {
            "scheduler": build_scheduler(),
            "vae": tiny_video_vae().eval(),
            "text_encoder": tiny_text_encoder_25(tokenizer).eval(),
            "tokenizer": tokenizer,
            "transformer": tiny_two_stream_transformer(zero_cond_t).eval(),
        }
        if kind is QwenImageEditPlusPipeline:
            parts["processor"] = tiny_processor_25(tokenizer)
        pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_text_encoder_25(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        **{"vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
        **{"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    vision = {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": TEXT_WIDTH},
        **{"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **special_ids(tokenizer))
    return scaled(Qwen2_5_VLForConditionalGeneration(config), 3.0)


def tiny_processor_25(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    allow_processors_without_torchvision()
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112})
    return Qwen2VLProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def tiny_video_vae() -> AutoencoderKLQwenImage:
    """8x, like the real one. Latent statistics that are not 0 and 1, so that forgetting them shows."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        latents_mean=[0.1 * c - 0.2 for c in range(4)],
        latents_std=[0.5 + 0.2 * c for c in range(4)],
    )


def tiny_two_stream_transformer(zero_cond_t: bool = False) -> QwenImageTransformer2DModel:
    model = QwenImageTransformer2DModel(
        in_channels=PACKED_CHANNELS,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
        zero_cond_t=zero_cond_t,
    )
    return scaled(model, 2.5)


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
