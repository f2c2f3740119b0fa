"""Losses against their definitions, finite differences and sampled expectations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.flow.loss import clipped_surrogate, flow_matching_loss, negative_aware, normalised_log_ratio, velocity_kl
from tastemaker.flow.transition import kl, log_ratio, transition, velocity_gain


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def surrogate_by_definition(log_ratio, advantages, low, high, weights):
    """Eq. 4 term by term."""
    total = 0.0
    for i, a in enumerate(advantages):
        terms = []
        for value in log_ratio[i]:
            r = math.exp(value)
            terms.append(min(r * a, min(max(r, 1 - low), 1 + high) * a))
        total -= np.average(terms, weights=weights)
    return total / len(advantages)


numbers = st.floats(-2, 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_surrogate_equals_its_definition(rows, data):
    advantages = data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows)))
    high, weights = data.draw(st.sampled_from([None, 0.4])), data.draw(st.sampled_from([None, [1.0, 2.0, 0.5]]))
    loss, _ = clipped_surrogate(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(advantages, dtype=torch.float64), 0.2,
        clip_high=high, weights_S=None if weights is None else torch.tensor(weights),
    )  # fmt: skip
    expected = surrogate_by_definition(rows, advantages, 0.2, 0.2 if high is None else high, weights)
    assert float(loss) == pytest.approx(expected, abs=1e-9)


def test_surrogate_gradient_against_finite_differences_and_where_it_stops():
    log_ratio_BS = torch.tensor([[0.05, -0.4, 0.4], [0.02, -0.4, 0.4]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.5, -0.7], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: clipped_surrogate(r, advantages, 0.2, weights_S=weights)[0], log_ratio_BS)
    loss, metrics = clipped_surrogate(log_ratio_BS, advantages, 0.2)
    (gradient,) = torch.autograd.grad(loss, log_ratio_BS)
    assert (gradient == 0).tolist() == [[False, False, True], [False, True, False]]
    assert float(metrics["clip_fraction"]) == pytest.approx(2 / 6)
    assert float(metrics["max_ratio"]) == pytest.approx(math.exp(0.4))
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_surrogate_at_the_old_weights_is_the_policy_gradient():
    log_ratio_BS = torch.zeros(2, 3, requires_grad=True)
    advantages = torch.tensor([2.0, -1.0], requires_grad=True)
    loss, metrics = clipped_surrogate(log_ratio_BS, advantages, 1e-5)
    loss.backward()
    assert advantages.grad is None
    assert torch.equal(log_ratio_BS.grad, -torch.tensor([[2.0] * 3, [-1.0] * 3]) / 6)
    assert loss.item() == pytest.approx(-0.5)
    assert [float(metrics[k]) for k in ("clip_fraction", "mean_abs_log_ratio", "max_ratio", "approx_kl")] == [0, 0, 1, 0]


def test_a_clip_range_of_a_millionth_clips_in_float32_where_it_should():
    inside = torch.tensor([[0.97e-6]], requires_grad=True)
    outside = torch.tensor([[1.03e-6]], requires_grad=True)
    for log_ratio_BS, clipped in ((inside, 0.0), (outside, 1.0)):
        loss, metrics = clipped_surrogate(log_ratio_BS, torch.ones(1), 1e-6)
        loss.backward()
        assert float(metrics["clip_fraction"]) == clipped
    assert inside.grad.item() != 0 and outside.grad.item() == 0


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("extreme", [200.0, -200.0, float("inf"), float("-inf")])
def test_absurd_ratios_do_not_turn_into_nan(advantage, extreme):
    log_ratio_BS = torch.tensor([[extreme, 0.0]], requires_grad=True)
    loss, _ = clipped_surrogate(log_ratio_BS, torch.tensor([advantage]), 0.2)
    loss.backward()
    assert loss.isfinite() and log_ratio_BS.grad.isfinite().all()


def test_nan_is_not_hidden_and_bfloat16_is_widened():
    loss, _ = clipped_surrogate(torch.tensor([[float("nan")]]), torch.ones(1), 0.2)
    assert loss.isnan()
    loss, metrics = clipped_surrogate(torch.zeros(1, 1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16), 0.2)
    assert loss.dtype == metrics["max_ratio"].dtype == torch.float32


@pytest.mark.parametrize(
    "log_ratio_BS, advantages, options, words",
    [
        (torch.zeros(2), torch.zeros(2), {}, "expected"),
        (torch.zeros(2, 1), torch.zeros(2, 1), {}, "expected"),
        (torch.zeros(2, 3), torch.zeros(3), {}, "expected"),
        (torch.zeros(2, 3), torch.zeros(2), {"weights_S": torch.ones(2)}, "one per trained step"),
        (torch.zeros(2, 3), torch.zeros(2), {"clip_range": 0.0}, "clip range"),
        (torch.zeros(2, 3), torch.zeros(2), {"clip_high": -0.1}, "clip range"),
    ],
)
def test_wrong_inputs_are_refused(log_ratio_BS, advantages, options, words):
    with pytest.raises(ValueError, match=words):
        clipped_surrogate(log_ratio_BS, advantages, **({"clip_range": 0.2} | options))


# -- ratio normalisation and KL, under samples of the old policy ------------------------------------------------------

STEPS = [("flow_sde", 1.0, 0.95, 0.7), ("flow_sde", 0.9, 0.8, 0.7), ("flow_sde", 0.4, 0.2, 0.7), ("cps", 0.7, 0.5, 0.5)]


def two_policies(kind, sigma, sigma_next, eta, change=0.05, batch=4000, elements=32):
    """One velocity change at one step for many samples of the old policy."""
    x, v = draw(1, elements, seed=1).expand(batch, -1), draw(1, elements, seed=2).expand(batch, -1)
    moved = v + change * draw(1, elements, seed=3)
    old, new = (transition(kind, w, x, sigma, sigma_next, eta) for w in (v, moved))
    return new, old, old.sample(draw(batch, elements, seed=4)), (moved - v)[0]


@pytest.mark.parametrize("step", STEPS)
def test_normalised_log_ratio_has_mean_zero_and_one_scale_at_every_step(step):
    new, old, x_next, change = two_policies(*step)
    raw, gap, std, gain = log_ratio(new, old, x_next), kl(old, new), old.std.flatten(), velocity_gain(*step)
    error = float(raw.std()) / math.sqrt(len(raw))
    assert float(raw.mean()) == pytest.approx(-float(gap[0]), abs=4 * error)

    guard = normalised_log_ratio(raw, gap, std)
    scaled = normalised_log_ratio(raw, gap, std, gain)
    expected = float(change.square().mean().sqrt()) / math.sqrt(len(change))
    assert float(scaled.mean()) == pytest.approx(0, abs=4 * expected / math.sqrt(len(raw)))
    assert float(scaled.std()) == pytest.approx(expected, rel=0.05)
    assert float(guard.std()) == pytest.approx(expected * abs(float(gain)), rel=0.05)
    xi = (x_next - old.mean) / old.std
    torch.testing.assert_close(scaled, -(xi * change).mean(1), rtol=1e-3, atol=1e-6)


def test_a_log_ratio_spreads_as_one_over_the_root_of_the_elements_while_its_mean_stays():
    """Why a clip range belongs to a resolution: for 256 times the elements, as of 1024 pixels against 64, 16 times less."""

    def mean_and_spread(elements):
        new, old, x_next, change = two_policies("cps", 0.7, 0.5, 0.5, batch=1000, elements=elements)
        ratio, size = log_ratio(new, old, x_next).double(), float(change.double().square().mean().sqrt())
        return float(ratio.mean()) / size**2, float(ratio.std()) / size

    (few, wide), (many, narrow) = mean_and_spread(32), mean_and_spread(256 * 32)
    assert wide / narrow == pytest.approx(16, rel=0.1)
    assert few == pytest.approx(many, rel=0.2) and many < 0


def test_gradient_of_the_normalised_ratio_does_not_depend_on_the_step():
    xi = draw(1, 5, seed=4, dtype=torch.float64)
    for kind, sigma, sigma_next, eta in STEPS:
        x, v = draw(1, 5, seed=1, dtype=torch.float64), draw(1, 5, seed=2, dtype=torch.float64).requires_grad_()
        step = tuple(torch.tensor([s], dtype=torch.float64) for s in (sigma, sigma_next))
        old, new = (transition(kind, w, x, *step, eta) for w in (v.detach(), v))
        x_next = old.sample(xi)
        result = normalised_log_ratio(
            new.log_prob(x_next) - old.log_prob(x_next), kl(old, new), old.std.flatten(), velocity_gain(kind, *step, eta)
        )
        (gradient,) = torch.autograd.grad(result.sum(), v)
        torch.testing.assert_close(gradient, -xi / 5)


def test_normalised_log_ratio_refuses_a_std_that_would_broadcast_over_the_batch():
    with pytest.raises(ValueError, match="one value per log ratio"):
        normalised_log_ratio(torch.zeros(3), torch.zeros(3), torch.ones(3, 1))


def test_approx_kl_is_the_kl_per_element_and_the_usual_estimator_is_not():
    new, old, x_next, _ = two_policies("flow_sde", 0.9, 0.8, 0.7, change=1.0)
    raw = log_ratio(new, old, x_next)
    _, metrics = clipped_surrogate(raw[:, None], torch.zeros(len(raw)), 0.2)
    exact = float(kl(old, new)[0])
    assert float(metrics["approx_kl"]) == pytest.approx(exact, rel=0.1)
    assert float((raw.exp() - 1 - raw).mean()) < exact / 10


@pytest.mark.parametrize("kind, sigma, sigma_next, eta", STEPS)
def test_velocity_kl_times_gain_is_the_gaussian_kl(kind, sigma, sigma_next, eta):
    v, reference, x = (draw(3, 4, 5, seed=s) for s in (1, 2, 3))
    p, q = (transition(kind, w, x, sigma, sigma_next, eta) for w in (v, reference))
    factor = velocity_gain(kind, sigma, sigma_next, eta) ** 2 / (2 * p.std.flatten() ** 2)
    torch.testing.assert_close(velocity_kl(v, reference) * factor, kl(p, q), rtol=1e-4, atol=1e-7)


def test_velocity_kl_and_flow_matching_gradients():
    v = draw(2, 3, dtype=torch.float64).requires_grad_()
    reference = draw(2, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: velocity_kl(w, reference.detach()), v)
    velocity_kl(v, reference).sum().backward()
    assert reference.grad is None
    torch.testing.assert_close(v.grad, 2 * (v - reference).detach() / 3)
    assert velocity_kl(v[:1], v[:1]).tolist() == [0.0]

    x0, noise = draw(2, 3, seed=2, dtype=torch.float64), draw(2, 3, seed=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: flow_matching_loss(w, x0, noise), v)
    assert float(flow_matching_loss(noise - x0, x0, noise)) == 0
    assert float(flow_matching_loss(noise - x0 + 2, x0, noise)) == pytest.approx(4)
    with pytest.raises(ValueError, match="shapes differ"):
        flow_matching_loss(v, x0[:1], noise)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_negative_aware_gradient_at_the_old_policy_and_at_its_minimum(strength):
    old, target = draw(4, 5, dtype=torch.float64), draw(4, 5, seed=1, dtype=torch.float64)
    r_B = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    v = old.clone().requires_grad_()
    negative_aware(v, old, target, r_B, strength).sum().backward()
    expected = 2 * strength * (2 * r_B - 1)[:, None] * (old - target) / 5
    assert torch.allclose(v.grad, expected, atol=1e-12)
    assert torch.equal(v.grad[2], torch.zeros(5, dtype=torch.float64))
    best = (old + ((2 * r_B - 1) / strength)[:, None] * (target - old)).requires_grad_()
    negative_aware(best, old, target, r_B, strength).sum().backward()
    assert torch.allclose(best.grad, torch.zeros_like(best), atol=1e-12)


def test_negative_aware_against_finite_differences_and_no_gradient_to_the_old_policy():
    v, old, target = (draw(3, 4, seed=n, dtype=torch.float64).requires_grad_() for n in range(3))
    r_B = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: negative_aware(v, old.detach(), target.detach(), r_B, 0.7), (v,))
    negative_aware(v, old, target, r_B, 0.7).sum().backward()
    assert old.grad is None and target.grad is None
    with pytest.raises(ValueError, match="strength"):
        negative_aware(v, old, target, r_B, 0.0)


def test_negative_aware_tilts_a_distribution_towards_its_good_samples():
    """Two points, one good: the optimum over all noise is the velocity of a distribution with more weight on the good one."""
    generator = torch.Generator().manual_seed(0)
    good_B = torch.rand(200_000, generator=generator) < 0.5
    x0_B1 = torch.where(good_B, 1.0, -1.0)[:, None]
    noise_B1, sigma = torch.randn(200_000, 1, generator=generator), 0.8
    x_B1 = (1 - sigma) * x0_B1 + sigma * noise_B1
    near = (x_B1[:, 0] - 0.1).abs() < 0.05  # what is learnt at one x
    share = float(good_B[near].double().mean())
    # E[noise - x0 | x] of the even mixture: noise = (x - (1 - sigma) x0) / sigma
    target = (noise_B1 - x0_B1)[near].double()
    old = target.mean().expand_as(target)
    v = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = negative_aware(v.expand_as(target), old, target, torch.where(good_B[near], 1.0, 0.0).double(), 1.0).mean()
    (gradient,) = torch.autograd.grad(loss, v)
    best = -float(gradient) / 2  # a parabola of curvature 2
    towards_good = float(target[good_B[near]].mean() - old[0])
    assert math.copysign(1, best - float(old[0])) == math.copysign(1, towards_good)
    assert best - float(old[0]) == pytest.approx(2 * share * towards_good, rel=1e-6)
