"""One sampling step as a Gaussian: p(x_next | x) = N(mean, std^2), for the three samplers a rollout can use.

Every mean is affine in state and velocity, `mean = a x + b v`, with step constants a, b and std:

    dt = sigma_next - sigma (negative), k = sigma_next (1 - cos(eta pi/2)), q = eta^2 / (2 (1 - sigma))
    ode        a = 1           b = dt                        std = 0
    flow_sde   a = 1 + q dt    b = dt (1 + q (1 - sigma))    std = eta sqrt(sigma / (1 - sigma)) sqrt(-dt)
    cps        a = 1 - k       b = dt - k (1 - sigma)        std = sigma_next sin(eta pi/2)

so eta = 0 is the ODE bit for bit. `std` always means the standard deviation of the *state* after the step (sqrt(dt)
included), in log-probabilities and in KL alike. Everything is float32 whatever comes in (float64 stays float64).
Higher-order solvers are left out: their steps are not Gaussians of one velocity.

`sigma` and `sigma_next` are floats for all rows, or (B,) tensors: rows of one batch may be at different steps. That
0 <= sigma_next < sigma <= 1 is checked for floats and CPU tensors; on an accelerator reading the values would stall it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tastemaker.flow.precision import mean_over_elements, require_same_shape, widened

Kind = Literal["ode", "flow_sde", "cps"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Independent normals around `mean` (B, *X) with `std` that broadcasts to it, (B or 1, 1, ...); std 0 is a point mass."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """(B, *X) mean + std noise; `noise` is standard normal. Equals `mean` exactly where std is 0."""
        require_same_shape(noise=noise, mean=self.mean)
        return self.mean + self.std * widened(noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,) log density of x in nats per latent element (their mean), whose scale does not grow with their number."""
        return mean_over_elements(self._log_densities(x))

    def log_prob_sum(self, x: Tensor) -> Tensor:
        """(B,) log density of x in nats per sample (sum over elements)."""
        return self._log_densities(x).unsqueeze(-1).flatten(1).sum(1)

    def _log_densities(self, x: Tensor) -> Tensor:
        require_same_shape(x=x, mean=self.mean)
        _require_spread(self)
        return -0.5 * ((widened(x) - self.mean) / self.std).square() - self.std.log() - 0.5 * LOG_2PI


def transition(
    kind: Kind, velocity: Tensor, x: Tensor, sigma: float | Tensor, sigma_next: float | Tensor, eta: float
) -> Gaussian:
    """The step from `sigma` to `sigma_next`; `velocity` and `x` are (B, *X). Gradients flow through velocity and x.

    ode        Euler; `eta` is not used.
    flow_sde   Euler-Maruyama step of Flow-GRPO's SDE, which has the ODE's marginals:
                   dx = [v + s^2/(2 sigma) (x + (1 - sigma) v)] dt + s dw,   s = eta sqrt(sigma / (1 - sigma)),   eta >= 0
               At sigma = 1 s is infinite. There 1 - sigma_next stands for 1 - sigma inside s: what Flow-GRPO does with its
               second sigma, and a function of this step alone. Any finite s has the right marginals at that one point;
               with this one the first step has std = eta, whatever its length.
    cps        coefficients-preserving sampling (Flow-CPS), eta in [0, 1]: predict x0 = x - sigma v, x1 = x + (1 - sigma) v,
                   mean = (1 - sigma_next) x0 + sqrt(sigma_next^2 - std^2) x1
               so that data and noise have the coefficients 1 - sigma_next and sigma_next after every step, exactly.

    A step to sigma_next = 0 has std 0 under cps, and leaves noise in the result under flow_sde: take ode for the last step.
    """
    require_same_shape(velocity=velocity, x=x)
    x, velocity = widened(x), widened(velocity)
    dtype = torch.promote_types(x.dtype, velocity.dtype)
    a, b, std = (_as_rows(c, x) for c in _coefficients(kind, *_sigmas(sigma, sigma_next, dtype, x.device), eta))
    return Gaussian(a * x + b * velocity, std)


def velocity_gain(kind: Kind, sigma: float | Tensor, sigma_next: float | Tensor, eta: float) -> Tensor:
    """b = d mean / d velocity, negative; 0-d for floats, (B,) for rows. A velocity error e moves the mean by b e."""
    tensors = [s for s in (sigma, sigma_next) if isinstance(s, Tensor)]
    dtype = torch.float64 if any(s.dtype == torch.float64 for s in tensors) else torch.float32
    device = tensors[0].device if tensors else torch.device("cpu")
    return _coefficients(kind, *_sigmas(sigma, sigma_next, dtype, device), eta)[1]


def kl(p: Gaussian, q: Gaussian) -> Tensor:
    """(B,) KL(p || q) = |mean_p - mean_q|^2 / (2 std^2), nats per latent element; for equal std (one step, two policies)."""
    _require_equal_spread(p, q)
    return 0.5 * mean_over_elements(((p.mean - q.mean) / p.std).square())


def log_ratio(new: Gaussian, old: Gaussian, x: Tensor) -> Tensor:
    """(B,) log new(x) - log old(x) in nats per element, for equal std; exactly 0 for equal means.

    The difference of two `log_prob` carries float32 rounding of about 1e-7, a tenth of a clip range of 1e-6; here the common
    terms never appear: (mean_new - mean_old)(x - (mean_new + mean_old)/2) / std^2.
    """
    require_same_shape(x=x, mean=new.mean)
    _require_equal_spread(new, old)
    residual = widened(x) - 0.5 * (new.mean + old.mean)
    return mean_over_elements((new.mean - old.mean) / new.std * (residual / new.std))


def _coefficients(kind: Kind, sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, std) of the table above, each in the shape of sigma."""
    _require_eta(kind, eta)
    dt = sigma_next - sigma
    if kind == "ode":
        return torch.ones_like(dt), dt, torch.zeros_like(dt)
    if kind == "flow_sde":
        to_data = torch.where(sigma == 1, 1 - sigma_next, 1 - sigma)
        q = eta**2 / (2 * to_data)
        return 1 + q * dt, dt * (1 + q * (1 - sigma)), eta * (sigma / to_data * -dt).sqrt()
    angle = eta * math.pi / 2
    k = sigma_next * (2 * math.sin(angle / 2) ** 2)
    return 1 - k, dt - k * (1 - sigma), sigma_next * math.sin(angle)


def _sigmas(
    sigma: float | Tensor, sigma_next: float | Tensor, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape, () or (B,)."""
    _require_falling(sigma, sigma_next)
    now, after = torch.broadcast_tensors(_as_tensor(sigma, dtype, device), _as_tensor(sigma_next, dtype, device))
    if now.ndim > 1:
        raise ValueError(f"sigma and sigma_next make shape {tuple(now.shape)}; each is a float or (B,)")
    return now, after


def _as_tensor(sigma: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(sigma, Tensor):
        return sigma.to(device=device, dtype=dtype)
    return torch.full((), sigma, dtype=dtype, device=device)


def _as_rows(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape (1 or B, 1, ..., 1), ready to multiply x."""
    if coefficient.numel() not in (1, x.shape[0]):
        raise ValueError(f"sigma has {coefficient.numel()} rows and x has {x.shape[0]}; give one sigma, or one for each row")
    return coefficient.reshape(-1, *[1] * (x.ndim - 1))


def _require_falling(sigma: float | Tensor, sigma_next: float | Tensor) -> None:
    """Skipped for tensors on an accelerator, whose values would have to be waited for."""
    if any(isinstance(s, Tensor) and s.device.type != "cpu" for s in (sigma, sigma_next)):
        return
    now, after = (torch.as_tensor(s, dtype=torch.float64) for s in (sigma, sigma_next))
    if not bool(((after >= 0) & (after < now) & (now <= 1)).all()):
        raise ValueError(f"a step goes from sigma to a smaller sigma_next inside [0, 1], got {sigma} -> {sigma_next}")


def _require_eta(kind: str, eta: float) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Kind))}")
    limit = {"ode": math.inf, "flow_sde": math.inf, "cps": 1.0}[kind]
    if kind != "ode" and not (math.isfinite(eta) and 0 <= eta <= limit):
        raise ValueError(f"eta is {eta}; {kind} needs it finite, at least 0 and at most {limit}")


def _require_spread(gaussian: Gaussian) -> None:
    """On an accelerator a point mass yields inf or NaN instead of this error."""
    if gaussian.std.device.type == "cpu" and not bool((gaussian.std > 0).all()):
        raise ValueError(
            "std is 0, a point mass (an ODE step, eta = 0, or a CPS step to sigma = 0): it has no log-density or KL"
        )


def _require_equal_spread(p: Gaussian, q: Gaussian) -> None:
    require_same_shape(first_mean=p.mean, second_mean=q.mean)
    _require_spread(p)
    if p.std.device.type == "cpu" and not bool((p.std == q.std).all()):
        raise ValueError("the two Gaussians have different std; compare two policies at the same step, sampler and eta")
