"""Tiny random-weight instances of the real pipeline classes, built offline, for tests that need the machinery but no picture.

Weights are scaled so that outputs depend strongly on prompt, source picture and noise level: with the default initialisation
the conditioning moves the velocity by so little that a test comparing two conditionings could not fail.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tastemaker.models.processor_shim import allow_processors_without_torchvision

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}{%- if m.content is string %}{{ m.content }}{%- else %}"
    "{%- for c in m.content %}{%- if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif c.type == 'text' %}{{ c.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Comprehend and analyze the provided prompt. system user assistant Picture image",
    "a red circle on a blue background make it green three squares left of one triangle",
]
CHANNELS = 8
TEXT_WIDTH = 64


def tiny_tokenizer(vocab_size: int = 512) -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen's special tokens; never out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIALS), show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    result = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS,
    )
    result.chat_template = CHAT
    return result


def tiny_processor(tokenizer: Qwen2Tokenizer) -> Qwen3VLProcessor:
    allow_processors_without_torchvision()
    half = [0.5] * 3
    limits = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    images = Qwen2VLImageProcessorPil(patch_size=16, size=limits, image_mean=half, image_std=half)
    return Qwen3VLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=CHAT)


def tiny_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    names = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
    ids = {name: tokenizer.convert_tokens_to_ids(SPECIALS[index]) for name, index in names.items()}
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
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
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


def tiny_scheduler() -> FlowMatchEulerDiscreteScheduler:
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


def tiny_qwen_image21(seed: int = 0) -> QwenImage21Pipeline:
    """About 0.5 M parameters in all; 64 x 64 pictures are 16 latent tokens of 8 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = QwenImage21Pipeline(
            scheduler=tiny_scheduler(),
            vae=tiny_vae().eval(),
            text_encoder=tiny_text_encoder(tokenizer).eval(),
            processor=tiny_processor(tokenizer),
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
