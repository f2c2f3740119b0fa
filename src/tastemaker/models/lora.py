"""Which weights a policy trains, as a whole or through LoRA, and how the untouched model is reached as a reference.

Files written here are plain diffusers LoRA folders: `pipe.load_lora_weights(folder)` gives the same pictures without us.

With gradient checkpointing a backward pass runs the forward again with whatever is active *then*: finish every `reference`
block before the policy's forward, never between it and backward, or the policy silently gets no gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal, TypeVar

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import Adapter
from tastemaker.models.rounding import Kept

AdapterT = TypeVar("AdapterT", bound=Adapter)


def policy_parameters(
    adapter: Adapter,
    kind: Literal["full", "lora"],
    *,
    rank: int = 32,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    name: str = "policy",
) -> list[nn.Parameter]:
    """Make exactly the policy's parameters trainable and return them: all of the transformer, or a LoRA named `name`.

    A LoRA that is not there yet is added (see `add_lora`); one that is becomes the active one.
    """
    transformer = adapter.transformer
    if kind == "full":
        transformer.requires_grad_(True)
    else:
        transformer.requires_grad_(False)
        if name not in getattr(transformer, "peft_config", {}):
            add_lora(adapter, rank=rank, alpha=alpha, targets=targets, name=name)
        transformer.set_adapter(name)
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def add_lora(
    adapter: Adapter, *, rank: int, alpha: float | None = None, targets: Sequence[str] | None = None, name: str = "policy"
) -> None:
    """Add a LoRA that changes nothing yet (B = 0) and make it active; its weights are float32 whatever the model's dtype.

    `alpha` is `rank` when None, a scale of 1. `targets` are names of linear layers, the family's attention and MLP when None.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=list(targets or adapter.lora_targets),
        init_lora_weights=True,
    )
    with _beside_others():
        adapter.transformer.add_adapter(config, adapter_name=name)
    for key, parameter in adapter.transformer.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.data.float()


def save_lora(adapter: Adapter, folder: str | Path, *, name: str = "policy") -> None:
    """Write one LoRA as diffusers does, with the metadata without which it would come back at another scale."""
    adapter.pipeline.save_lora_weights(
        str(folder),
        transformer_lora_layers=get_peft_model_state_dict(adapter.transformer, adapter_name=name),
        transformer_lora_adapter_metadata=adapter.transformer.peft_config[name].to_dict(),
    )


def load_lora(adapter: Adapter, folder: str | Path, *, name: str = "policy") -> None:
    """Read a diffusers LoRA folder (safetensors) as the LoRA `name` and make it active."""
    if name in getattr(adapter.transformer, "peft_config", {}):
        raise UserMistake(f"the transformer already has a LoRA named {name!r}; load {folder} under another name")
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise UserMistake(f"{folder} holds no LoRA: it has no .safetensors file")
    try:
        with _beside_others():
            adapter.pipeline.load_lora_weights(str(folder), adapter_name=name, local_files_only=True, use_safetensors=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserMistake(f"{folder} is no LoRA of this transformer: {' '.join(str(error).split())[:300]}") from error
    if name not in getattr(adapter.transformer, "peft_config", {}):
        raise UserMistake(f"{folder} holds no LoRA of a transformer")
    _keep_what_is_saved(adapter.transformer, name, files)
    adapter.transformer.set_adapter(name)


def _keep_what_is_saved(transformer: nn.Module, name: str, files: Sequence[Path]) -> None:
    """In float32, which a policy's LoRA is trained in; peft has rounded it to the base's dtype, and drops what has no place.

    Of files that name their weights as diffusers does; other names were translated, and stay as they came.
    """
    saved = {key.removeprefix("transformer."): value for path in files for key, value in load_file(path).items()}
    own = {key.replace(f".{name}.", "."): value for key, value in transformer.named_parameters() if f".{name}." in key}
    if not own.keys() & saved.keys():
        return
    odd = [key for key in saved if ".lora_" in key and key not in own]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise UserMistake(f"{files[0].parent} is no LoRA of this transformer, which has no place for {odd[0]}{more}")
    for key, value in own.items():
        if key in saved:
            value.data = saved[key].to(value.device, torch.float32)


@contextmanager
def _beside_others() -> Iterator[None]:
    """Several LoRAs in one transformer are meant; peft warns of every one after the first."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        yield


@torch.no_grad()
def merge_lora(adapter: Adapter, *, name: str = "policy") -> Kept:
    """Add the LoRA `name` to the weights and take all LoRA layers off; sums are float32, rounded once to the weights' dtype.

    Returns how much of it is left after the rounding.
    """
    refuse_dora(adapter.transformer, name, f"the LoRA {name!r}: keep it apart from the weights")
    kept = Kept()
    for layer in adapter.transformer.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            weight, change = layer.get_base_layer().weight, layer.get_delta_weight(name).float()
            before = weight.clone()
            weight.copy_(weight.float() + change)
            kept.add(before, change, weight)
    adapter.transformer.unload_lora()
    return kept


def refuse_dora(transformer: nn.Module, name: str, what: str) -> None:
    """Raises UserMistake for a LoRA with magnitudes of its own (DoRA), which is more than a product to be added."""
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer) and name in getattr(layer, "lora_magnitude_vector", {}):
            raise UserMistake(f"{what}; it has magnitudes (DoRA), and is not a product that could be added to the weights")


@contextmanager
def reference(adapter: AdapterT, weights: nn.Module) -> Iterator[AdapterT]:
    """Inside the block, the adapter of the untouched model, without gradient.

    A LoRA's base is untouched: given the adapter's own transformer, LoRA layers are switched off for the block, and what is
    yielded shares it. A full-parameter policy has no untouched weights left: give the frozen copy of the transformer you kept.
    """
    transformer = adapter.transformer
    with torch.no_grad():
        if weights is not transformer:
            yield with_transformer(adapter, weights)
            return
        if not has_lora(transformer):
            raise ValueError("a policy without LoRA has no reference of its own; pass the frozen copy of its transformer")
        transformer.disable_adapters()
        try:
            yield adapter
        finally:
            transformer.enable_adapters()


def has_lora(transformer: nn.Module) -> bool:
    return bool(getattr(transformer, "peft_config", None))


def with_transformer(adapter: AdapterT, transformer: nn.Module) -> AdapterT:
    """The same adapter around other weights; encoder, VAE and schedule are shared."""
    other = copy(adapter)
    other.transformer = transformer
    return other
