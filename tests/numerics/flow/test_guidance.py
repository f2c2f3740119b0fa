"""Guidance against the pipeline's formula, and what each mode makes of a guided rollout."""

import pytest
import torch

from tastemaker.flow.guidance import check_modes, guided, offset, policy_velocity
from tastemaker.flow.loss import clipped_surrogate
from tastemaker.flow.transition import kl, transition, velocity_gain

STEP = ("flow_sde", 0.9, 0.8, 0.7)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step(velocity, x):
    kind, sigma, sigma_next, eta = STEP
    return transition(kind, velocity, x, sigma, sigma_next, eta)


def test_guided_equals_the_pipelines_arithmetic():
    cond, uncond = draw(2, 6, 4, seed=1), draw(2, 6, 4, seed=2)
    combined = uncond + 4.0 * (cond - uncond)
    torch.testing.assert_close(guided(cond, uncond, 4.0), combined)
    expected = combined * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True))
    torch.testing.assert_close(guided(cond, uncond, 4.0, rescale=True), expected)
    torch.testing.assert_close(guided(cond, uncond, 4.0, rescale=True).norm(dim=-1), cond.norm(dim=-1))


def test_scale_one_returns_the_conditional_velocity_itself():
    cond = draw(2, 3).bfloat16()
    assert guided(cond, None, 1.0) is cond
    assert guided(cond, cond, 1.0, rescale=True) is cond
    with pytest.raises(ValueError, match="v_uncond"):
        guided(cond, None, 4.0)
    with pytest.raises(ValueError, match="shapes differ"):
        guided(cond, cond[:1], 4.0)


def test_rescaling_a_vanishing_velocity_gives_zero_not_nan():
    cond, uncond = torch.ones(1, 2, 3, requires_grad=True), torch.full((1, 2, 3), 2.0)
    v = guided(cond, uncond, 2.0, rescale=True)
    v.sum().backward()
    assert v.eq(0).all() and cond.grad is not None and not cond.grad.isnan().any()


def test_bfloat16_branches_are_combined_in_float32():
    cond, uncond = draw(2, 3, seed=1).bfloat16(), draw(2, 3, seed=2).bfloat16()
    assert torch.equal(guided(cond, uncond, 5.0), guided(cond.float(), uncond.float(), 5.0))


@pytest.mark.parametrize("rescale", [False, True])
def test_gradients_of_guidance_against_finite_differences(rescale):
    cond = draw(1, 2, 3, seed=1, dtype=torch.float64).requires_grad_()
    uncond = draw(1, 2, 3, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, u: guided(c, u, 3.0, rescale), (cond, uncond))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_hybrid_ratio_is_exactly_one_and_its_gradient_has_the_closed_form(rescale, stored):
    cond, uncond, x, noise = (draw(2, 6, 4, seed=s) for s in (1, 2, 3, 4))
    frozen = offset(guided(cond, uncond, 4.0, rescale), cond).to(stored)
    old = step(policy_velocity("hybrid", cond, offset=frozen), x)
    x_next = old.sample(noise)
    weights = cond.clone().requires_grad_()
    new = step(policy_velocity("hybrid", weights, offset=frozen), x)
    log_ratio = new.log_prob(x_next) - old.log_prob(x_next)
    assert torch.equal(log_ratio, torch.zeros(2))

    advantages = torch.tensor([1.3, -0.4])
    loss, metrics = clipped_surrogate(log_ratio[:, None], advantages, 1e-4)
    loss.backward()
    kind, sigma, sigma_next, eta = STEP
    b, s = velocity_gain(kind, sigma, sigma_next, eta), old.std
    n = cond[0].numel()
    xi = (x_next - old.mean) / s
    expected = -(advantages[:, None, None] / 2) * b / s**2 * s * xi / n
    torch.testing.assert_close(weights.grad, expected)
    torch.testing.assert_close(xi, noise, rtol=1e-4, atol=1e-5)
    assert metrics["clip_fraction"] == 0 and metrics["max_ratio"] == 1


def test_conditional_mode_adds_the_documented_bias_to_the_gradient():
    cond, uncond, x, noise = (draw(1, 6, 4, seed=s, dtype=torch.float64) for s in (1, 2, 3, 4))
    guidance = offset(guided(cond, uncond, 4.0), cond)
    x_next = step(cond + guidance, x).sample(noise)
    weights = cond.clone().requires_grad_()
    new, old = (step(policy_velocity("conditional", v), x) for v in (weights, cond))
    log_ratio = new.log_prob(x_next) - old.log_prob(x_next)
    assert log_ratio.tolist() == [0]
    (gradient,) = torch.autograd.grad(log_ratio.sum(), weights)
    kind, sigma, sigma_next, eta = STEP
    b = velocity_gain(kind, torch.tensor(sigma, dtype=torch.float64), sigma_next, eta)
    torch.testing.assert_close(gradient, (b / old.std * noise + b**2 / old.std**2 * guidance) / cond.numel())


def test_both_differentiates_both_branches_and_the_others_only_the_conditional():
    cond, uncond = draw(1, 2, 3, seed=1).requires_grad_(), draw(1, 2, 3, seed=2).requires_grad_()
    policy_velocity("both", cond, v_uncond=uncond, scale=4.0).sum().backward()
    assert torch.equal(cond.grad, torch.full((1, 2, 3), 4.0)) and torch.equal(uncond.grad, torch.full((1, 2, 3), -3.0))
    cond.grad = uncond.grad = None
    pushed = uncond * 2
    policy_velocity("hybrid", cond, offset=pushed).sum().backward()
    assert torch.equal(cond.grad, torch.ones(1, 2, 3)) and uncond.grad is None
    for mode in ("none", "conditional"):
        assert policy_velocity(mode, cond) is cond


@pytest.mark.parametrize("sigma, documented", [(0.95, 1.68e-3), (0.6, 2.13e-2)])
def test_the_literal_mixture_clips_every_loser_and_distils_guidance_from_every_winner(sigma, documented):
    """Guided old, unguided new, at the old weights: 10 steps, eta 0.7, scale 4, rms(v_c - v_u) = 0.15, clip range 1e-4."""
    shape = (4, 256, 64)
    cond, x = draw(*shape, seed=1).requires_grad_(), draw(*shape, seed=2)
    uncond = (cond - 0.15 * draw(*shape, seed=3)).detach()
    guidance = offset(guided(cond, uncond, 4.0), cond)
    old, new = (transition("flow_sde", v, x, sigma, sigma - 0.1, 0.7) for v in (cond.detach() + guidance, cond))
    assert kl(old, new).tolist() == pytest.approx([documented] * 4, rel=0.03)
    x_next = old.sample(draw(*shape, seed=4))
    log_ratio = (new.log_prob(x_next) - old.log_prob(x_next))[:, None]
    assert (log_ratio < -5 * 1e-4).all()

    losers, metrics = clipped_surrogate(log_ratio, -torch.ones(4), 1e-4)
    (gradient,) = torch.autograd.grad(losers, cond, retain_graph=True)
    assert metrics["clip_fraction"] == 1 and gradient.eq(0).all()
    winners, metrics = clipped_surrogate(log_ratio, torch.ones(4), 1e-4)
    (gradient,) = torch.autograd.grad(winners, cond)
    assert metrics["clip_fraction"] == 0
    push = -(gradient * guidance).sum()
    b, std = velocity_gain("flow_sde", sigma, sigma - 0.1, 0.7), old.std.flatten()
    assert float(push) == pytest.approx(float((b / std) ** 2 * guidance.square().mean()), rel=0.25)


def test_the_literal_mixture_is_refused_and_the_four_modes_are_not():
    for mode in ("hybrid", "both", "conditional"):
        check_modes(4.0, mode)
    for mode in ("hybrid", "both", "conditional", "none"):
        check_modes(1.0, mode)
    with pytest.raises(ValueError, match="tens to thousands of clip ranges"):
        check_modes(4.0, "none")
    with pytest.raises(ValueError, match="one of hybrid, both, none, conditional"):
        check_modes(4.0, "rollout_only")
    for scale in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="scale"):
            check_modes(scale, "hybrid")


@pytest.mark.parametrize(
    "mode, extra, words",
    [
        ("hybrid", {}, "needs the stored offset"),
        ("none", {"offset": torch.zeros(1, 3)}, "takes no offset"),
        ("both", {"offset": torch.zeros(1, 3), "v_uncond": torch.zeros(1, 3), "scale": 4.0}, "takes no offset"),
        ("both", {"scale": 4.0}, "v_uncond"),
        ("conditional", {"v_uncond": torch.zeros(1, 3), "scale": 4.0}, "belong to 'both'"),
        ("hybrid", {"offset": torch.zeros(1, 3), "scale": 4.0}, "belong to 'both'"),
        ("hybrid", {"offset": torch.zeros(1, 1)}, "shapes differ"),
        ("guided", {}, "one of"),
    ],
)
def test_an_argument_the_mode_would_ignore_is_an_error(mode, extra, words):
    with pytest.raises(ValueError, match=words):
        policy_velocity(mode, torch.zeros(1, 3), **extra)
