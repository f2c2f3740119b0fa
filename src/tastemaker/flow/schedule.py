"""Noise levels of a sampling run, and which of its steps are trained.

sigma is in [0, 1], 1 = pure noise; a schedule of N steps is N + 1 falling values that end in 0, and step n goes from
`sigmas[n]` to `sigmas[n + 1]`. The numbers are those of diffusers' FlowMatchEulerDiscreteScheduler, so a policy is trained on
the grid its pipeline samples with. Left out: the Karras, exponential-spacing and beta variants, which no model we support uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

TRAIN_STEPS = 1000
"""Discrete noise levels a scheduler's default grid is cut from; its lowest sigma is one of them."""


def dynamic_shift(
    num_tokens: int, base_tokens: int = 256, max_tokens: int = 8192, base_shift: float = 0.5, max_shift: float = 0.9
) -> float:
    """mu: the straight line through (base_tokens, base_shift) and (max_tokens, max_shift), also outside them.

    `num_tokens` counts the latent tokens of one image. The defaults are Qwen-Image's; FLUX has (256, 4096, 0.5, 1.15).
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return base_shift + slope * (num_tokens - base_tokens)


def shifted_sigmas(
    num_steps: int,
    *,
    mu: float | None = None,
    shift: float = 1.0,
    kind: Literal["exponential", "linear"] = "exponential",
    terminal: float | None = None,
    sigmas: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """(num_steps + 1,) float32, strictly falling, last value 0: base grid, then shift, then stretch.

    With `mu` the shift is dynamic: s -> c / (c + 1/s - 1), c = exp(mu) ("exponential") or mu ("linear"); `shift` is then not
    used, as in diffusers, whose configs keep one. Without `mu` it is static: the same with c = shift. `terminal` (None or 0:
    none) then stretches 1 - s so that the last sigma before 0 is `terminal`.

    `sigmas` is the base grid (num_steps values in (0, 1], falling). Without it the grid is the one diffusers' pipelines use:
    with `mu`, 1 ... 1/N (FLUX, Qwen-Image pass it); static, 1 ... shift(1/1000) (SD3 leaves it to the scheduler, whose lowest
    sigma is already shifted once).

    Raises ValueError for a grid that is not usable, and for a stretch of a single step from 1, which has no solution.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a schedule has at least 1 step")
    constant = _shift_constant(mu, shift, kind)
    grid = _base_grid(num_steps, 1.0 / num_steps if mu is not None else _shifted(1.0 / TRAIN_STEPS, constant), sigmas)
    result = constant / (constant + (1.0 / grid - 1.0))
    if terminal:
        result = _stretched(result, terminal)
    return torch.cat([result, result.new_zeros(1)]).float()


def high_noise_window(num_steps: int, size: int, start: int = 0) -> tuple[int, ...]:
    """Indices of the stochastic, trained steps: `size` consecutive ones from `start`; step 0 has the most noise.

    The last step may not be among them: it lands on sigma = 0, where CPS has no noise (no log-probability) and Flow-SDE would
    leave noise in the finished image.

    >>> high_noise_window(10, 3)
    (0, 1, 2)
    """
    if size < 1 or start < 0:
        raise ValueError(f"window of {size} steps from step {start}: size must be at least 1 and start at least 0")
    if start + size > num_steps - 1:
        raise ValueError(
            f"window of {size} steps from step {start} ends at step {start + size - 1}, but of {num_steps} steps the last that "
            f"can be stochastic is {num_steps - 2} (step {num_steps - 1} lands on sigma = 0); take fewer, or an earlier start"
        )
    return tuple(range(start, start + size))


def _shift_constant(mu: float | None, shift: float, kind: str) -> float:
    if kind not in ("exponential", "linear"):
        raise ValueError(f"kind is {kind!r}; it must be 'exponential' or 'linear'")
    constant = shift if mu is None else math.exp(mu) if kind == "exponential" else mu
    if not (math.isfinite(constant) and constant > 0):
        raise ValueError(f"the shift is {constant}; it must be positive and finite (a linear mu of 0 or less is not)")
    return constant


def _shifted(sigma: float, constant: float) -> float:
    return constant * sigma / (1 + (constant - 1) * sigma)


def _base_grid(num_steps: int, lowest: float, sigmas: Sequence[float] | Tensor | None) -> Tensor:
    if sigmas is None:
        return torch.linspace(1.0, lowest, num_steps, dtype=torch.float64)
    grid = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
    if grid.shape != (num_steps,):
        raise ValueError(f"sigmas has shape {tuple(grid.shape)}, expected ({num_steps},): one per step, without the final 0")
    if not bool(((grid > 0) & (grid <= 1)).all() and (grid.diff() < 0).all()):
        raise ValueError(f"sigmas must fall strictly inside (0, 1], got {grid.tolist()}")
    return grid


def _stretched(sigmas: Tensor, terminal: float) -> Tensor:
    if not 0 < terminal < 1:
        raise ValueError(f"terminal is {terminal}; it must lie between 0 and 1")
    if sigmas[-1] >= 1:
        raise ValueError(
            "one step that starts at sigma = 1 cannot be stretched to a terminal value; use 2 or more steps, or none"
        )
    return 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
