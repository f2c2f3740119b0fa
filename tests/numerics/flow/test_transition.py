"""Transitions against torch.distributions, the published formulas written out, and a closed-form Gaussian flow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from tastemaker.flow.transition import Gaussian, kl, log_ratio, transition, velocity_gain

STOCHASTIC = ("flow_sde", "cps")


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published_flow_sde(v, x, sigma, sigma_next, eta):
    """Flow-GRPO's update as its drift is printed, in float64."""
    dt = sigma_next - sigma
    s = eta * math.sqrt(sigma / (1 - (sigma_next if sigma == 1 else sigma)))
    mean = x + (v + s**2 / (2 * sigma) * (x + (1 - sigma) * v)) * dt
    return mean, s * math.sqrt(-dt)


def published_cps(v, x, sigma, sigma_next, eta):
    """Flow-CPS: predict both ends, mix them at the next level."""
    x0, x1 = x - sigma * v, x + (1 - sigma) * v
    std = sigma_next * math.sin(eta * math.pi / 2)
    return (1 - sigma_next) * x0 + math.sqrt(sigma_next**2 - std**2) * x1, std


steps = st.tuples(st.floats(0.002, 1.0), st.floats(0.0, 0.95)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@settings(max_examples=60, deadline=None)
@given(steps, st.floats(0.0, 1.0), st.sampled_from(STOCHASTIC))
def test_mean_and_std_equal_the_published_formulas(step, eta, kind):
    v, x = draw(3, 4, 2, seed=1, dtype=torch.float64), draw(3, 4, 2, seed=2, dtype=torch.float64)
    mean, std = {"flow_sde": published_flow_sde, "cps": published_cps}[kind](v, x, *step, eta)
    ours = transition(kind, v, x, *step, eta)
    torch.testing.assert_close(ours.mean, mean, rtol=1e-9, atol=1e-9)
    assert ours.std.flatten().tolist() == pytest.approx([std], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("step", [(1.0, 0.9), (0.7, 0.3), (0.02, 0.0), (1.0, 0.0)])
def test_without_noise_every_kind_is_the_ode_bit_for_bit(kind, step):
    v, x = draw(2, 5, seed=1), draw(2, 5, seed=2)
    ours, ode = transition(kind, v, x, *step, 0.0), transition("ode", v, x, *step, 0.7)
    assert torch.equal(ours.mean, ode.mean) and torch.equal(ours.std, ode.std) and ode.std.eq(0).all()
    torch.testing.assert_close(ode.mean, x + (step[1] - step[0]) * v)
    assert torch.equal(ode.sample(draw(2, 5, seed=3)), ode.mean)


@pytest.mark.parametrize("kind", ("ode", *STOCHASTIC))
def test_rows_at_different_steps_equal_single_rows_bit_for_bit(kind):
    sigma, after = torch.tensor([1.0, 0.8, 0.3]), torch.tensor([0.9, 0.5, 0.1])
    v, x, noise = (draw(3, 4, 6, seed=s) for s in (1, 2, 3))
    rows = transition(kind, v, x, sigma, after, 0.6)
    for i in range(3):
        one = slice(i, i + 1)
        alone = transition(kind, v[one], x[one], float(sigma[i]), float(after[i]), 0.6)
        assert torch.equal(rows.mean[one], alone.mean) and torch.equal(rows.std[one], alone.std)
        if kind != "ode":
            x_next = alone.sample(noise[one])
            assert torch.equal(rows.log_prob(rows.sample(noise))[one], alone.log_prob(x_next))


@pytest.mark.parametrize("kind", ("ode", *STOCHASTIC))
@pytest.mark.parametrize("step", [(1.0, 0.9), (0.7, 0.3), (0.1, 0.0)])
def test_velocity_gain_is_the_derivative_of_the_mean(kind, step):
    x = draw(1, 3, dtype=torch.float64)
    v = draw(1, 3, seed=1, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(transition(kind, v, x, *step, 0.7).mean.sum(), v)
    gain = velocity_gain(kind, *(torch.tensor(s, dtype=torch.float64) for s in step), 0.7)
    assert gain < 0
    torch.testing.assert_close(slope, gain.expand(1, 3))
    assert float(velocity_gain(kind, *step, 0.7)) == pytest.approx(float(gain), rel=1e-6)
    assert velocity_gain(kind, torch.tensor([1.0, 0.5]), torch.tensor([0.9, 0.4]), 0.7).shape == (2,)


@pytest.mark.parametrize("batch", [1, 4])
def test_log_prob_and_kl_equal_torch_distributions(batch):
    p = transition("flow_sde", draw(batch, 5, 3, seed=1), draw(batch, 5, 3, seed=2), 0.9, 0.7, 0.7)
    q = transition("flow_sde", draw(batch, 5, 3, seed=4), draw(batch, 5, 3, seed=2), 0.9, 0.7, 0.7)
    x = p.sample(draw(batch, 5, 3, seed=3))
    normal_p, normal_q = (Normal(g.mean.double(), g.std.double()) for g in (p, q))
    torch.testing.assert_close(p.log_prob(x).double(), normal_p.log_prob(x.double()).mean((1, 2)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(p.log_prob_sum(x).double(), normal_p.log_prob(x.double()).sum((1, 2)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl(p, q).double(), kl_divergence(normal_p, normal_q).mean((1, 2)), rtol=1e-5, atol=1e-7)
    expected = (normal_q.log_prob(x.double()) - normal_p.log_prob(x.double())).mean((1, 2))
    torch.testing.assert_close(log_ratio(q, p, x).double(), expected, rtol=1e-5, atol=1e-6)


def test_log_ratio_keeps_digits_that_a_difference_of_log_probs_loses():
    """A change of 1e-6 per element, the size of a tight clip range, on an image of 4096 tokens."""
    x, v = draw(2, 4096, 16, seed=1), draw(2, 4096, 16, seed=2)
    old = transition("flow_sde", v, x, 0.9, 0.87, 0.7)
    new = transition("flow_sde", v + 1e-3 * draw(2, 4096, 16, seed=3), x, 0.9, 0.87, 0.7)
    x_next = old.sample(draw(2, 4096, 16, seed=4))
    exact_new, exact_old = (Normal(g.mean.double(), g.std.double()).log_prob(x_next.double()) for g in (new, old))
    exact = (exact_new - exact_old).mean((1, 2))
    assert exact.abs().max() < 1e-5
    assert (log_ratio(new, old, x_next) - exact).abs().max() < 1e-10
    assert torch.equal(log_ratio(old, old, x_next), torch.zeros(2))


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_gradients_against_finite_differences(kind):
    x, reference = draw(2, 3, dtype=torch.float64), draw(2, 3, seed=5, dtype=torch.float64)
    x_next = draw(2, 3, seed=3, dtype=torch.float64)
    v = draw(2, 3, seed=1, dtype=torch.float64).requires_grad_()
    sigma, after = torch.tensor([1.0, 0.6]), torch.tensor([0.9, 0.4])

    def step(velocity):
        return transition(kind, velocity, x, sigma, after, 0.7)

    assert step(v).mean.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda w: step(w).log_prob(x_next), v)
    assert torch.autograd.gradcheck(lambda w: kl(step(w), step(reference)), v)
    assert torch.autograd.gradcheck(lambda w: log_ratio(step(w), step(reference), x_next), v)


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_bfloat16_inputs_are_computed_in_float32(kind):
    v, x = draw(2, 8, seed=1).bfloat16(), draw(2, 8, seed=2).bfloat16()
    low, wide = transition(kind, v, x, 0.8, 0.75, 0.5), transition(kind, v.float(), x.float(), 0.8, 0.75, 0.5)
    assert low.mean.dtype == low.std.dtype == torch.float32
    assert torch.equal(low.mean, wide.mean)
    assert low.sample(x).dtype == low.log_prob(x).dtype == torch.float32


def test_particles_without_latent_axes_do_not_average_over_the_batch():
    p = transition("cps", draw(6, seed=1), draw(6, seed=2), 0.9, 0.7, 0.5)
    assert p.log_prob(draw(6, seed=3)).shape == (6,)
    assert p.log_prob(draw(6, seed=3)).unique().numel() == 6
    assert transition("cps", draw(0, 4), draw(0, 4), 0.9, 0.7, 0.5).log_prob(draw(0, 4)).shape == (0,)


# -- the edges of the schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_next", [0.999, 0.9, 0.5])
def test_first_flow_sde_step_is_finite_and_has_std_eta(sigma_next):
    p = transition("flow_sde", draw(2, 3), draw(2, 3, seed=1), 1.0, sigma_next, 0.7)
    assert p.mean.isfinite().all()
    assert float(p.std) == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_cps_keeps_the_coefficients_of_data_and_noise(eta):
    """With the true velocity of one pair, the step is (1 - s) data + s * unit noise: cos of the old and sin of fresh noise."""
    data, noise = draw(4, 3, seed=1, dtype=torch.float64), draw(4, 3, seed=2, dtype=torch.float64)
    for sigma, after in [(1.0, 0.8), (0.8, 0.3), (0.3, 0.0)]:
        p = transition("cps", noise - data, (1 - sigma) * data + sigma * noise, sigma, after, eta)
        kept = (p.mean - (1 - after) * data) / noise
        torch.testing.assert_close(kept.square() + p.std.square(), torch.full_like(kept, after**2), rtol=1e-9, atol=1e-12)


def test_cps_with_eta_one_replaces_all_noise_and_ends_on_the_data():
    data, noise = draw(4, 3, seed=1), draw(4, 3, seed=2)
    p = transition("cps", noise - data, 0.2 * data + 0.8 * noise, 0.8, 0.5, 1.0)
    torch.testing.assert_close(p.mean, 0.5 * data)
    last = transition("cps", noise - data, 0.2 * data + 0.8 * noise, 0.8, 0.0, 1.0)
    torch.testing.assert_close(last.mean, data)
    assert float(last.std) == 0


@pytest.mark.parametrize("kind, step, eta", [("ode", (0.9, 0.8), 0.7), ("cps", (0.1, 0.0), 0.7), ("flow_sde", (0.9, 0.8), 0.0)])
def test_a_point_mass_has_no_log_prob_and_no_kl(kind, step, eta):
    p = transition(kind, draw(2, 3), draw(2, 3, seed=1), *step, eta)
    for ask in (lambda: p.log_prob(p.mean), lambda: p.log_prob_sum(p.mean), lambda: kl(p, p), lambda: log_ratio(p, p, p.mean)):
        with pytest.raises(ValueError, match="point mass"):
            ask()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kind": "sde"}, "flow_sde"),
        ({"eta": -0.1}, "eta"),
        ({"eta": float("nan")}, "eta"),
        ({"kind": "cps", "eta": 1.1}, "at most 1.0"),
        ({"sigma": 0.5, "sigma_next": 0.5}, "smaller sigma_next"),
        ({"sigma": 0.5, "sigma_next": 0.6}, "smaller sigma_next"),
        ({"sigma": 1.1}, "smaller sigma_next"),
        ({"sigma_next": -0.1}, "smaller sigma_next"),
        ({"sigma": float("nan")}, "smaller sigma_next"),
        ({"sigma": 800.0}, "smaller sigma_next"),
        ({"sigma": torch.tensor([0.9, 0.8, 0.7])}, "one for each row"),
        ({"sigma": torch.tensor([[0.9], [0.8]])}, "float or"),
        ({"velocity": torch.zeros(2, 1)}, "shapes differ"),
    ],
)
def test_impossible_steps_are_refused(change, words):
    step = {"kind": "flow_sde", "velocity": draw(2, 3), "x": draw(2, 3), "sigma": 0.9, "sigma_next": 0.6, "eta": 0.7}
    with pytest.raises(ValueError, match=words):
        transition(**(step | change))


def test_kl_between_different_steps_is_refused():
    v, x = draw(2, 3), draw(2, 3, seed=1)
    with pytest.raises(ValueError, match="different std"):
        kl(transition("cps", v, x, 0.9, 0.7, 0.5), transition("cps", v, x, 0.9, 0.6, 0.5))
    with pytest.raises(ValueError, match="shapes differ"):
        Gaussian(x, torch.ones(1, 1)).log_prob(draw(2, 1))


# -- a flow with a known answer ---------------------------------------------------------------------------------------

DATA_MEAN, DATA_STD = 1.5, 0.4


def gaussian_velocity(x, sigma):
    """E[noise - data | x] for data N(m, s^2): linear regression on x = (1 - sigma) data + sigma noise."""
    variance = (1 - sigma) ** 2 * DATA_STD**2 + sigma**2
    return -DATA_MEAN + (sigma - (1 - sigma) * DATA_STD**2) / variance * (x - (1 - sigma) * DATA_MEAN)


def simulate(kind, eta, num_steps, num_particles=20_000, stop=0.0):
    """Particles from noise down to sigma = stop; the step that reaches 0 is always the ODE."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(num_particles, generator=generator, dtype=torch.float64)
    grid = torch.linspace(1, stop, num_steps + 1, dtype=torch.float64)
    for sigma, after in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        step_kind = kind if after > 0 else "ode"
        noise = torch.randn(num_particles, generator=generator, dtype=torch.float64)
        x = transition(step_kind, gaussian_velocity(x, sigma), x, sigma, after, eta).sample(noise)
    return x


def test_ode_carries_noise_to_the_data_distribution():
    x = simulate("ode", 0.0, 400)
    start = torch.randn(20_000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    torch.testing.assert_close(x, DATA_MEAN + DATA_STD * start, rtol=0, atol=0.02)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("stop", [0.0, 0.5])
def test_flow_sde_has_the_marginals_of_the_ode(eta, stop):
    x = simulate("flow_sde", eta, 300, stop=stop)
    mean, std = (1 - stop) * DATA_MEAN, math.hypot((1 - stop) * DATA_STD, stop)
    assert float(x.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(len(x)) + 0.01)
    assert float(x.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * len(x)) + 0.01)


def test_flow_sde_with_few_steps_adds_noise_and_cps_does_not():
    """Ten steps from a single data point: Flow-CPS is at the scheduled noise level, Flow-SDE above it."""
    data = 0.7

    def level(kind):
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(20_000, generator=generator, dtype=torch.float64)
        for sigma in (1.0, 0.9, 0.8, 0.7, 0.6):
            v = (x - data) / sigma
            step = transition(kind, v, x, sigma, sigma - 0.1, 0.7)
            x = step.sample(torch.randn(20_000, generator=generator, dtype=torch.float64))
        return float(x.std()) / 0.5

    assert level("cps") == pytest.approx(1, abs=0.02)
    assert level("flow_sde") > 1.03
