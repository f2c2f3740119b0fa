"""What rollout and replay do whatever the model; that they equal pipeline and each other is in test_conformance.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_qwen_image21 import SIDE, latents

from families import LONG, SHORT, TEXTS
from tastemaker.models.adapter import decode_all
from tastemaker.rollout import Sampler, denoise, replay, take
from tastemaker.types import group_index

STEPS = 6


def noise(rows: int):
    """Standard normal noise keyed by the step."""
    return lambda step: latents(rows, seed=7 if step == "init" else 100 + step)


def encode(adapter, texts=TEXTS):
    """The condition, and the negative one, of one row."""
    return adapter.encode(texts, height=SIDE, width=SIDE), adapter.encode([""], height=SIDE, width=SIDE)


def trained(adapter, mode: str) -> Sampler:
    return Sampler(adapter.sigmas(STEPS, SIDE, SIDE), "cps", 0.7, steps=(0, 1, 3), guidance=3.0, mode=mode)


def test_hybrid_log_probs_are_those_of_the_guided_path(qwen_image21):
    """The offset is what guidance added: hybrid and both take the same path and score it alike at the old weights."""
    adapter = qwen_image21
    condition, negative = encode(adapter)
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
    condition, negative = encode(adapter)
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
    condition, negative = encode(adapter, [SHORT, LONG])
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
    condition, negative = encode(qwen_image21)
    sampler = replace(trained(qwen_image21, "hybrid"), steps=(0, 1, 2))
    trajectory = denoise(qwen_image21, condition, negative, group_size=1, sampler=sampler, noise=noise(3))
    assert torch.equal(trajectory.states_BSX[:, 0], latents(3, seed=7))
    assert torch.equal(trajectory.states_BSX[:, 1:], trajectory.next_states_BSX[:, :-1])
    assert trajectory.final_BX.isfinite().all()


def test_ode_steps_can_be_stored_without_log_probability(qwen_image21):
    condition, _ = encode(qwen_image21)
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
    condition, _ = encode(qwen_image21)
    with pytest.raises(ValueError, match="negative condition"):
        denoise(qwen_image21, condition, None, group_size=1, sampler=Sampler(sigmas, guidance=2.0), noise=noise(3))


def test_pictures_decoded_a_few_at_a_time_are_the_same(qwen_image21, monkeypatch):
    sizes = []
    original = type(qwen_image21).decode
    monkeypatch.setattr(type(qwen_image21), "decode", lambda self, x, *size: sizes.append(len(x)) or original(self, x, *size))
    whole, split = (decode_all(qwen_image21, latents(5), SIDE, SIDE, most) for most in (None, 2))
    assert sizes == [5, 2, 2, 1] and whole.shape == split.shape
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=0)
