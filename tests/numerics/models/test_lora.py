"""LoRA policies: what is trained, the reference, and the way out to plain diffusers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_qwen_image21 import SIDE, SIGMA, latents

from families import TEXTS
from tastemaker.errors import UserMistake
from tastemaker.models.lora import load_lora, policy_parameters, reference, save_lora
from tastemaker.models.qwen_image21 import adapt
from tiny import tiny_qwen_image21


@pytest.fixture
def adapter():
    return adapt(tiny_qwen_image21())


def velocity(adapter):
    condition = adapter.encode(TEXTS, height=SIDE, width=SIDE)
    return adapter.velocity(latents(3), SIGMA, adapter.prefix(condition))


def disturb(parameters) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.1)


def test_a_lora_trains_only_itself_and_starts_as_the_base(adapter):
    base = velocity(adapter).detach()
    parameters = policy_parameters(adapter, "lora", rank=4, alpha=16)
    assert torch.equal(velocity(adapter), base)
    names = {name for name, p in adapter.transformer.named_parameters() if p.requires_grad}
    assert len(names) == len(parameters) == 2 * 7 * 3 and all("lora_" in name for name in names)
    velocity(adapter).square().sum().backward()
    assert all(p.grad is not None for p in parameters)
    assert policy_parameters(adapter, "lora") == parameters


def test_the_reference_of_a_lora_is_the_base_bit_for_bit(adapter):
    base = velocity(adapter).detach()
    parameters = policy_parameters(adapter, "lora", rank=4)
    disturb(parameters)
    moved = velocity(adapter).detach()
    with reference(adapter, adapter.transformer) as untouched:
        inside = velocity(untouched)
    assert torch.equal(inside, base) and not inside.requires_grad
    assert torch.equal(velocity(adapter), moved) and not torch.allclose(moved, base, atol=1e-3)
    assert all(p.requires_grad for p in parameters)


def test_the_reference_of_a_full_policy_is_the_frozen_copy(adapter):
    base = velocity(adapter).detach()
    frozen = deepcopy(adapter.transformer)
    parameters = policy_parameters(adapter, "full")
    assert len(parameters) == len(list(adapter.transformer.parameters()))
    disturb(parameters)
    with reference(adapter, frozen) as untouched:
        assert torch.equal(velocity(untouched), base)
    with pytest.raises(ValueError, match="frozen copy"), reference(adapter, adapter.transformer):
        pass


def test_a_saved_lora_loads_again_at_its_scale(adapter, tmp_path):
    """In plain diffusers too: see test_conformance.py."""
    disturb(policy_parameters(adapter, "lora", rank=4, alpha=16))
    expected = velocity(adapter).detach()
    save_lora(adapter, tmp_path)

    other = adapt(tiny_qwen_image21())
    load_lora(other, tmp_path, name="policy")
    torch.testing.assert_close(velocity(other), expected, atol=1e-6, rtol=0)
    with pytest.raises(UserMistake, match="another name"):
        load_lora(other, tmp_path, name="policy")


def test_a_folder_without_safetensors_is_no_lora(adapter, tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"")
    with pytest.raises(UserMistake, match=r"no \.safetensors"):
        load_lora(adapter, tmp_path)


def test_a_loras_factors_stay_in_float32_on_a_base_in_less(adapter, tmp_path):
    disturb(policy_parameters(adapter, "lora", rank=4))
    save_lora(adapter, tmp_path)
    other = adapt(tiny_qwen_image21().to(torch.bfloat16))
    load_lora(other, tmp_path)
    saved, found = (
        {name: value for name, value in one.transformer.named_parameters() if ".policy." in name} for one in (adapter, other)
    )
    assert saved.keys() == found.keys() and all(value.dtype == torch.float32 for value in found.values())
    assert all(torch.equal(saved[name], value) for name, value in found.items())
    assert velocity(other).isfinite().all()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda key, value: (key, value[:, :-1]) if ".lora_A." in key else (key, value), "size mismatch"),
        (lambda key, value: (key.replace("blocks.0.", "blocks.7."), value), "no place for .*blocks.7"),
        (lambda key, value: (key.replace("transformer_blocks", "layers"), value), "is no LoRA of this transformer"),
    ],
)
def test_a_lora_of_another_transformer_is_refused_in_one_line(adapter, tmp_path, spoil, told):
    disturb(policy_parameters(adapter, "lora", rank=4))
    save_lora(adapter, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({k: v.contiguous() for k, v in (spoil(k, v) for k, v in load_file(path).items())}, path, about)
    with pytest.raises(UserMistake, match=told) as caught:
        load_lora(adapt(tiny_qwen_image21()), tmp_path)
    assert "\n" not in str(caught.value)
