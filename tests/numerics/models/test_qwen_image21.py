"""Qwen-Image-2.1's shared prefix against a plain forward of the unmodified transformer; the rest is in test_conformance.py."""

from __future__ import annotations

from math import prod

import pytest
import torch

from families import SHORT, TEXTS, sources
from tastemaker.errors import UserMistake
from tastemaker.models.adapter import collate
from tastemaker.types import group_index
from tiny import CHANNELS, picture

SIDE = 64
SIGMA = torch.tensor([0.9, 0.5, 0.2])


def latents(rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 16, CHANNELS, generator=torch.Generator().manual_seed(seed))


def velocity_uncached(adapter, x_BX, sigma_B, condition):
    """The plain forward of the transformer, one row at a time, each with its own length: no cache, no padding."""
    return torch.cat([_one_row(adapter, x_BX[i], sigma_B[i], condition.select(torch.tensor([i]))) for i in range(len(x_BX))])


def _one_row(adapter, x, sigma, condition):
    length = int(condition.tensors["mask"].sum())
    slots = condition.tensors["slots"][:, :length]
    pictures = [condition.tensors["sources"]] if "sources" in condition.tensors else []
    out = adapter.transformer(
        hidden_states=torch.cat([*pictures, x[None]], dim=1),
        timestep=sigma[None],
        encoder_hidden_states=condition.tensors["embeds"][:, :length],
        img_shapes=[list(condition.layout)],
        img_mask=torch.cat([slots, slots.new_ones(1, prod(condition.layout[-1]) // 4)], dim=1),
        return_dict=False,
    )[0]
    return out[:, -len(x) :]


@pytest.mark.parametrize("num_sources", [0, 1, 2])
def test_rows_of_a_mixed_batch_equal_the_plain_forward_of_each_prompt_alone(qwen_image21, num_sources):
    adapter = qwen_image21
    condition = adapter.encode(TEXTS, sources(num_sources), height=SIDE, width=SIDE)
    lengths = condition.tensors["mask"].sum(1).tolist()
    assert max(lengths) > min(lengths) + 10
    with torch.no_grad():
        expected = velocity_uncached(adapter, latents(3), SIGMA, condition)
        got = adapter.velocity(latents(3), SIGMA, adapter.prefix(condition))
        other_prompts = adapter.velocity(latents(3), SIGMA, adapter.prefix(condition).select(torch.tensor([1, 2, 0])))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (other_prompts - expected).abs().mean() > 0.02, "the fixture hardly depends on its condition"


def test_padding_alone_would_change_the_result(qwen_image21):
    """Why keys are turned: in diffusers a short prompt's velocity depends on the longest prompt of its batch."""
    adapter = qwen_image21
    condition = adapter.encode(TEXTS, height=SIDE, width=SIDE)
    slots = condition.tensors["slots"]
    with torch.no_grad():
        naive = adapter.transformer(
            hidden_states=latents(3),
            timestep=SIGMA,
            encoder_hidden_states=condition.tensors["embeds"],
            encoder_hidden_states_mask=condition.tensors["mask"],
            img_shapes=[list(condition.layout)],
            img_mask=torch.cat([slots, slots.new_ones(3, 4)], dim=1),
            return_dict=False,
        )[0][:, -16:]
        ours = adapter.velocity(latents(3), SIGMA, adapter.prefix(condition))
    longest = condition.tensors["mask"].sum(1).argmax()
    assert (naive - ours)[0].abs().max() > 1e-3
    torch.testing.assert_close(naive[longest], ours[longest], atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("num_sources", [0, 1])
def test_gradients_through_the_shared_prefix_equal_those_of_the_plain_forward(qwen_image21, num_sources, checkpointing):
    adapter, transformer = qwen_image21, qwen_image21.transformer
    condition = adapter.encode(TEXTS[:2], sources(num_sources, 2), height=SIDE, width=SIDE)
    rows, sigma = group_index(2, 2), torch.tensor([0.9, 0.5, 0.2, 0.7])
    weights = latents(4, seed=5)

    def gradients(velocity):
        transformer.zero_grad()
        (velocity * weights).sum().backward()
        return {name: p.grad.clone() for name, p in transformer.named_parameters() if p.grad is not None}

    try:
        expected = gradients(velocity_uncached(adapter, latents(4), sigma, condition.select(rows)))
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        got = gradients(adapter.velocity(latents(4), sigma, adapter.prefix(condition).select(rows)))
    finally:
        transformer.disable_gradient_checkpointing()
        transformer.zero_grad()
    assert got.keys() == expected.keys() == dict(transformer.named_parameters()).keys()
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm() / gradient.norm()
        assert gradient.norm() > 0 and error < 1e-5, (name, float(error))


def test_encode_reproduces_the_pipeline_for_each_prompt_alone(qwen_image21):
    adapter, pipeline = qwen_image21, qwen_image21.pipeline
    condition = adapter.encode([*TEXTS, ""], height=SIDE, width=SIDE)
    for row, text in enumerate([*TEXTS, " "]):
        with torch.no_grad():
            embeds, mask, slots = pipeline.encode_prompt([text])
        valid = condition.tensors["mask"][row]
        assert mask is None and not slots.any()
        assert torch.equal(condition.tensors["embeds"][row][valid], embeds[0])
        assert condition.tensors["embeds"][row][~valid].abs().sum() == 0


def test_a_grid_fixed_by_the_models_author_is_used_for_its_number_of_steps(qwen_image21):
    pipeline, before = qwen_image21.pipeline, qwen_image21.sigmas(4, SIDE, SIDE)
    try:
        pipeline.register_to_config(sample_sigmas=[1.0, 0.9, 0.7, 0.4])
        assert not torch.equal(qwen_image21.sigmas(4, SIDE, SIDE), before)
        assert len(qwen_image21.sigmas(6, SIDE, SIDE)) == 7
    finally:
        pipeline.register_to_config(sample_sigmas=None)


def test_wrong_sizes_and_mixed_layouts_are_refused_with_the_rule(qwen_image21):
    with pytest.raises(UserMistake, match="multiples of 32"):
        qwen_image21.encode([SHORT], height=100, width=64)
    with pytest.raises(UserMistake, match="too narrow"):
        qwen_image21.encode([SHORT], [[picture(0, 8, 400)]], height=SIDE, width=SIDE)
    plain = qwen_image21.encode([SHORT], height=SIDE, width=SIDE)
    edit = qwen_image21.encode([SHORT], sources(1, 1), height=SIDE, width=SIDE)
    with pytest.raises(UserMistake, match="cannot share a batch"):
        collate([plain, edit])
