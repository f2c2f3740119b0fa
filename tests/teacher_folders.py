"""Folders of teachers for the tiny Qwen-Image-2.1, one function for each kind; all differ from the base by their seed."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file

from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import add_lora, save_lora
from tastemaker.models.qwen_image21 import adapt
from tastemaker.training.teacher_weights import DELTA
from tiny import tiny_qwen_image21

LORA_FILE = "pytorch_lora_weights.safetensors"


def moved(adapter: Adapter, seed: int) -> torch.nn.Module:
    other = deepcopy(adapter.transformer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return other


def delta_folder(folder: Path, adapter: Adapter, seed: int) -> tuple[Path, torch.nn.Module]:
    """What a moved transformer differs by from the base."""
    base, other = adapter.transformer.state_dict(), moved(adapter, seed)
    folder.mkdir()
    save_file({name: (value - base[name]).contiguous() for name, value in other.state_dict().items()}, folder / DELTA)
    return folder, other


def lora_folder(folder: Path, seed: int, **options) -> tuple[Path, torch.nn.Module]:
    """A LoRA whose alpha is not its rank, and the transformer with it, as peft computes it."""
    other = adapt(tiny_qwen_image21())
    add_lora(other, **{"rank": 2, "alpha": 6, **options})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in other.transformer.named_parameters():
            if "lora_" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    save_lora(other, folder)
    return folder, other.transformer


def teacher_folder(kind: str, folder: Path, seed: int) -> Path:
    """Of the kind "full", "delta" or "lora"."""
    if kind == "lora":
        return lora_folder(folder, seed, rank=16)[0]
    if kind == "delta":
        return delta_folder(folder, adapt(tiny_qwen_image21()), seed)[0]
    moved(adapt(tiny_qwen_image21()), seed).save_pretrained(folder)
    return folder
