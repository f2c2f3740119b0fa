"""The Qwen-Image-2.1 adapter against the diffusers pipeline and against a plain forward of the unmodified transformer."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_shift

from tastemaker.errors import UserMistake
from tastemaker.flow.schedule import dynamic_shift, shifted_sigmas
from tastemaker.models.adapter import collate, load
from tastemaker.types import group_index
from tiny import CHANNELS, picture

SIDE = 64
SHORT, LONG = "red", "a red circle on a blue background and three squares left of one green triangle, make it so"
TEXTS = [SHORT, LONG, "zebras at night"]
SIGMA = torch.tensor([0.9, 0.5, 0.2])


def sources(count: int, rows: int = len(TEXTS)):
    """`count` pictures for each row, of different shapes; None for text-to-image."""
    shapes = [(150, 50), (64, 80)]
    return None if count == 0 else [[picture(10 * row + i, *shapes[i]) for i in range(count)] for row in range(rows)]


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


def test_a_source_picture_changes_the_velocity(qwen_image21):
    adapter = qwen_image21
    condition = adapter.encode([SHORT] * 3, sources(1), height=SIDE, width=SIDE)
    with torch.no_grad():
        v = adapter.velocity(latents(1).expand(3, -1, -1), SIGMA[:1].expand(3), adapter.prefix(condition))
    assert (v[0] - v[1]).abs().mean() > 0.01


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


def test_velocity_takes_rows_at_different_steps_and_prefixes_select_twice(qwen_image21):
    adapter = qwen_image21
    prefix = adapter.prefix(adapter.encode(TEXTS, height=SIDE, width=SIDE))
    twice = prefix.select(torch.tensor([2, 1])).select(torch.tensor([1, 1, 0]))
    assert len(twice) == 3
    with torch.no_grad():
        got = adapter.velocity(latents(3), SIGMA, twice)
        expected = adapter.velocity(latents(3), SIGMA, prefix.select(torch.tensor([1, 1, 2])))
        alone = adapter.velocity(latents(3)[2:], SIGMA[2:], prefix.select(torch.tensor([2])))
    assert torch.equal(got, expected)
    torch.testing.assert_close(got[2:], alone, atol=1e-5, rtol=0)


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


def test_sigmas_are_the_schedulers_bit_for_bit_and_the_formula_of_flow(qwen_image21):
    scheduler = qwen_image21.pipeline.scheduler
    for num_steps, side in ((4, 64), (10, 64), (28, 1024)):
        tokens = (side // 16) ** 2
        grid = np.linspace(1.0, 1 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=grid, mu=calculate_shift(tokens, 256, 8192, 0.5, 0.9))
        sigmas = qwen_image21.sigmas(num_steps, side, side)
        assert torch.equal(sigmas, scheduler.sigmas) and sigmas[0] == 1 and sigmas[-1] == 0
        formula = shifted_sigmas(num_steps, mu=dynamic_shift(tokens), terminal=0.02)
        torch.testing.assert_close(sigmas, formula, atol=1e-6, rtol=0)


def test_a_grid_fixed_by_the_models_author_is_used_for_its_number_of_steps(qwen_image21):
    pipeline, before = qwen_image21.pipeline, qwen_image21.sigmas(4, SIDE, SIDE)
    try:
        pipeline.register_to_config(sample_sigmas=[1.0, 0.9, 0.7, 0.4])
        assert not torch.equal(qwen_image21.sigmas(4, SIDE, SIDE), before)
        assert len(qwen_image21.sigmas(6, SIDE, SIDE)) == 7
    finally:
        pipeline.register_to_config(sample_sigmas=None)


def test_pictures_are_encoded_and_decoded_as_the_pipeline_does(qwen_image21):
    adapter, pipeline = qwen_image21, qwen_image21.pipeline
    image = picture(3, SIDE, SIDE)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    preprocessed = pipeline.image_processor.preprocess(image.convert("RGBA"), height=SIDE, width=SIDE).unsqueeze(2)
    with torch.no_grad():
        expected = pipeline._encode_vae_image(preprocessed, generator=None).flatten(2).transpose(1, 2)
    got = adapter.encode_images(pixels)
    assert got.shape == (1, *adapter.latent_shape(SIDE, SIDE))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    decoded = adapter.decode(got, SIDE, SIDE)
    assert decoded.shape == (1, 3, SIDE, SIDE) and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1 and decoded.std() > 0.01


def test_wrong_sizes_and_mixed_layouts_are_refused_with_the_rule(qwen_image21):
    with pytest.raises(UserMistake, match="multiples of 32"):
        qwen_image21.encode([SHORT], height=100, width=64)
    with pytest.raises(UserMistake, match="too narrow"):
        qwen_image21.encode([SHORT], [[picture(0, 8, 400)]], height=SIDE, width=SIDE)
    with pytest.raises(UserMistake, match="2 prompts came with 1"):
        qwen_image21.encode([SHORT, LONG], sources(1, 1), height=SIDE, width=SIDE)
    plain = qwen_image21.encode([SHORT], height=SIDE, width=SIDE)
    edit = qwen_image21.encode([SHORT], sources(1, 1), height=SIDE, width=SIDE)
    with pytest.raises(UserMistake, match="cannot share a batch"):
        collate([plain, edit])


def test_bfloat16_runs_and_returns_float32():
    from tastemaker.models.qwen_image21 import adapt
    from tiny import tiny_qwen_image21

    adapter = adapt(tiny_qwen_image21().to(dtype=torch.bfloat16))
    condition = adapter.encode(TEXTS, sources(1), height=SIDE, width=SIDE)
    with torch.no_grad():
        v = adapter.velocity(latents(3), SIGMA, adapter.prefix(condition))
    assert v.dtype == torch.float32 and v.isfinite().all()
    assert adapter.decode(latents(3), SIDE, SIDE).dtype == torch.float32


def test_a_saved_pipeline_opens_with_plain_diffusers_and_with_load(qwen_image21, tmp_path):
    qwen_image21.pipeline.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert type(plain) is type(qwen_image21.pipeline)
    adapter = load(tmp_path, device="cpu", dtype=torch.float32)
    results = []
    for one in (qwen_image21, adapter):
        condition = one.encode(TEXTS, sources(1), height=SIDE, width=SIDE)
        with torch.no_grad():
            results.append(one.velocity(latents(3), SIGMA, one.prefix(condition)))
    assert torch.equal(*results)
    assert not any(p.requires_grad for p in adapter.pipeline.text_encoder.parameters())
