"""Rollouts equal the diffusers pipeline, and replay equals the rollout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_qwen_image21 import LONG, SHORT, SIDE, TEXTS, latents, sources

from tastemaker.flow.transition import log_ratio
from tastemaker.rollout import Sampler, denoise, policy, replay, stored_velocities, take
from tastemaker.types import group_index

STEPS = 6


def noise(rows: int):
    """Standard normal noise keyed by the step."""
    return lambda step: latents(rows, seed=7 if step == "init" else 100 + step)


def encode(adapter, num_sources: int, texts=TEXTS):
    """The condition, and the negative one: one row for text, one for each row's pictures."""
    pictures = sources(num_sources, len(texts))
    condition = adapter.encode(texts, pictures, height=SIDE, width=SIDE)
    blank = [""] if pictures is None else [""] * len(texts)
    return condition, adapter.encode(blank, pictures, height=SIDE, width=SIDE)


def trained(adapter, mode: str, kind: str = "cps", guidance: float = 3.0, rescale: bool = False) -> Sampler:
    sigmas = adapter.sigmas(STEPS, SIDE, SIDE)
    return Sampler(sigmas, kind, 0.7, steps=(0, 1, 3), guidance=1.0 if mode == "none" else guidance, rescale=rescale, mode=mode)


@pytest.mark.parametrize("num_sources", [0, 1, 2])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_ode_rollout_is_the_pipeline_run_on_each_prompt_alone(qwen_image21, num_sources, guidance):
    adapter, pipeline = qwen_image21, qwen_image21.pipeline
    condition, negative = encode(adapter, num_sources)
    sampler = Sampler(adapter.sigmas(STEPS, SIDE, SIDE), guidance=guidance)
    trajectory = denoise(adapter, condition, negative, group_size=1, sampler=sampler, noise=noise(3))
    pixels = adapter.decode(trajectory.final_BX, SIDE, SIDE)
    pictures = sources(num_sources)
    for row, output_type in enumerate(("latent", "latent", "pt")):
        image = pipeline(
            prompt=TEXTS[row],
            image=None if pictures is None else pictures[row],
            negative_prompt="" if guidance > 1 else None,
            true_cfg_scale=guidance,
            height=SIDE,
            width=SIDE,
            output_resolution=SIDE,
            num_inference_steps=STEPS,
            latents=latents(3, seed=7)[row : row + 1],
            output_type=output_type,
        ).images
        got = trajectory.final_BX[row] if output_type == "latent" else pixels[row]
        torch.testing.assert_close(got, image[0][:3] if output_type == "pt" else image[0], atol=1e-5, rtol=0)


def test_guidance_matters_in_the_fixture(qwen_image21):
    condition, negative = encode(qwen_image21, 0)
    sigmas = qwen_image21.sigmas(STEPS, SIDE, SIDE)
    finals = [
        denoise(qwen_image21, condition, negative, group_size=1, sampler=Sampler(sigmas, guidance=w), noise=noise(3)).final_BX
        for w in (1.0, 4.0)
    ]
    assert (finals[0] - finals[1]).abs().mean() > 0.05


@pytest.mark.parametrize("mode", ["hybrid", "both", "none", "conditional"])
@pytest.mark.parametrize(("kind", "num_sources", "rescale"), [("cps", 0, False), ("flow_sde", 1, True)])
def test_replay_at_the_same_weights_has_ratio_one(qwen_image21, mode, kind, num_sources, rescale):
    adapter = qwen_image21
    condition, negative = encode(adapter, num_sources, TEXTS[:2])
    sampler = trained(adapter, mode, kind, rescale=rescale)
    trajectory = denoise(adapter, condition, negative, group_size=2, sampler=sampler, noise=noise(4))
    rows = group_index(2, 2)
    prefix = adapter.prefix(condition).select(rows)
    unconditional = adapter.prefix(negative).select(rows if len(negative) > 1 else torch.zeros_like(rows))
    with torch.no_grad():
        log_probs, velocities = replay(adapter, prefix, trajectory, sampler, unconditional=unconditional)
    assert (log_probs - trajectory.log_probs_BS).abs().max() < 1e-6
    torch.testing.assert_close(velocities, trajectory.velocities_BSX, atol=1e-5, rtol=0)
    assert (trajectory.offsets_BSX is not None) == (mode in ("hybrid", "both"))
    # A slightly different policy is told apart far above that rounding.
    v_uncond = stored_velocities(adapter, unconditional, trajectory).detach() if mode == "both" else None
    old = policy(trajectory, sampler, trajectory.velocities_BSX, v_uncond)
    new = policy(trajectory, sampler, trajectory.velocities_BSX * 1.1, v_uncond)
    assert log_ratio(new, old, trajectory.next_states_BSX.flatten(0, 1)).abs().mean() > 1e-3


def test_hybrid_log_probs_are_those_of_the_guided_path(qwen_image21):
    """The offset is what guidance added: hybrid and both take the same path and score it alike at the old weights."""
    adapter = qwen_image21
    condition, negative = encode(adapter, 0)
    runs = {
        mode: denoise(adapter, condition, negative, group_size=1, sampler=trained(adapter, mode), noise=noise(3))
        for mode in ("hybrid", "both", "conditional")
    }
    for mode in ("both", "conditional"):
        torch.testing.assert_close(runs[mode].final_BX, runs["hybrid"].final_BX, atol=1e-5, rtol=0)
    torch.testing.assert_close(runs["both"].log_probs_BS, runs["hybrid"].log_probs_BS, atol=1e-5, rtol=0)
    assert (runs["conditional"].log_probs_BS - runs["hybrid"].log_probs_BS).abs().mean() > 1e-3
    assert runs["hybrid"].offsets_BSX.abs().mean() > 0.05


def test_a_gradient_reaches_the_weights_through_replay_and_only_the_conditional_branch(qwen_image21):
    adapter, transformer = qwen_image21, qwen_image21.transformer
    condition, negative = encode(adapter, 0)
    sampler = trained(adapter, "hybrid")
    trajectory = denoise(adapter, condition, negative, group_size=1, sampler=sampler, noise=noise(3))
    assert not trajectory.log_probs_BS.requires_grad
    log_probs, _ = replay(adapter, adapter.prefix(condition), trajectory, sampler)
    log_probs.sum().backward()
    gradients = [p.grad for p in transformer.parameters()]
    transformer.zero_grad()
    assert all(g is not None and g.isfinite().all() for g in gradients) and any(g.abs().max() > 0 for g in gradients)


def test_chunks_groups_and_micro_batches_do_not_change_numbers(qwen_image21):
    adapter = qwen_image21
    condition, negative = encode(adapter, 0, [SHORT, LONG])
    sampler = trained(adapter, "hybrid")
    whole = denoise(adapter, condition, negative, group_size=3, sampler=sampler, noise=noise(6))
    chunked = denoise(adapter, condition, negative, group_size=3, sampler=sampler, noise=noise(6), max_batch=4)
    torch.testing.assert_close(chunked.final_BX, whole.final_BX, atol=1e-5, rtol=0)
    torch.testing.assert_close(chunked.log_probs_BS, whole.log_probs_BS, atol=1e-6, rtol=0)
    prefix = adapter.prefix(condition).select(group_index(2, 3))
    with torch.no_grad():
        for rows in torch.arange(6).split(2):
            log_probs, _ = replay(adapter, prefix.select(rows), take(whole, rows), sampler)
            assert (log_probs - whole.log_probs_BS[rows]).abs().max() < 1e-6


def test_stored_states_are_the_path(qwen_image21):
    condition, negative = encode(qwen_image21, 0)
    sampler = replace(trained(qwen_image21, "hybrid"), steps=(0, 1, 2))
    trajectory = denoise(qwen_image21, condition, negative, group_size=1, sampler=sampler, noise=noise(3))
    assert torch.equal(trajectory.states_BSX[:, 0], latents(3, seed=7))
    assert torch.equal(trajectory.states_BSX[:, 1:], trajectory.next_states_BSX[:, :-1])
    assert trajectory.final_BX.isfinite().all()


def test_ode_steps_can_be_stored_without_log_probability(qwen_image21):
    condition, _ = encode(qwen_image21, 0)
    sigmas = qwen_image21.sigmas(STEPS, SIDE, SIDE)
    plain = denoise(qwen_image21, condition, None, group_size=1, sampler=Sampler(sigmas), noise=noise(3))
    stored = denoise(qwen_image21, condition, None, group_size=1, sampler=Sampler(sigmas, steps=(1, 5)), noise=noise(3))
    assert plain.states_BSX.shape == (3, 0, 16, 8)
    assert torch.equal(plain.final_BX, stored.final_BX) and torch.equal(stored.next_states_BSX[:, 1], stored.final_BX)
    assert stored.log_probs_BS.isnan().all()


def test_samplers_that_cannot_be_trained_are_refused(qwen_image21):
    sigmas = qwen_image21.sigmas(STEPS, SIDE, SIDE)
    with pytest.raises(ValueError, match="lands on sigma = 0"):
        Sampler(sigmas, "cps", 0.7, steps=(5,))
    with pytest.raises(ValueError, match="eta is 0"):
        Sampler(sigmas, "cps", 0.0, steps=(1,))
    with pytest.raises(ValueError, match="must rise"):
        Sampler(sigmas, "cps", 0.7, steps=(2, 1))
    with pytest.raises(ValueError, match="mode 'none'"):
        Sampler(sigmas, "cps", 0.7, steps=(1,), guidance=3.0, mode="none")
    condition, _ = encode(qwen_image21, 0)
    with pytest.raises(ValueError, match="negative condition"):
        denoise(qwen_image21, condition, None, group_size=1, sampler=Sampler(sigmas, guidance=2.0), noise=noise(3))
