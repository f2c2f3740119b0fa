"""The only two walks over steps: `denoise` samples trajectories, `replay` evaluates another policy on their stored steps.

A rollout with N steps is stochastic only in `Sampler.steps`, which are stored and trained; all others are plain ODE steps.
Replay has no loop after all: the S stored steps of B samples are B * S rows of one forward. Both build their transitions by the
same functions from the same stored numbers, so at the rollout's weights the ratio of new and old policy is 1 up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from tastemaker.flow.guidance import Mode, check_modes, guided, offset, policy_velocity
from tastemaker.flow.transition import Gaussian, Kind, transition
from tastemaker.models.adapter import Adapter
from tastemaker.types import Condition, Trajectory, group_index

Noise = Callable[[int | Literal["init"]], Tensor]
"""Standard normal (B, *X): the start of the rollout, or what a stochastic step adds. Asked for once per stochastic step."""


@dataclass(frozen=True, eq=False)
class Sampler:
    """How to go from noise to a picture, and which steps are stochastic, stored and trained.

    `kind` "ode" may store steps too (for distillation); they have no log-probability, so NaN stands there.
    """

    sigmas: Tensor
    kind: Kind = "ode"
    eta: float = 0.0
    steps: tuple[int, ...] = ()
    guidance: float = 1.0
    rescale: bool = False
    mode: Mode = "hybrid"
    """How guidance enters the trained policy."""

    def __post_init__(self) -> None:
        num_steps = len(self.sigmas) - 1
        if list(self.steps) != sorted(set(self.steps)) or not all(0 <= n < num_steps for n in self.steps):
            raise ValueError(f"steps are {self.steps}; they must rise and lie in 0 ... {num_steps - 1}")
        if self.kind == "ode" or not self.steps:
            return
        check_modes(self.guidance, self.mode)
        if not self.eta > 0:
            raise ValueError(f"eta is {self.eta}; a stochastic sampler ({self.kind}) needs it above 0")
        if num_steps - 1 in self.steps:
            raise ValueError(f"step {num_steps - 1} is the last and lands on sigma = 0; it must stay an ODE step")

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    @property
    def policy_mode(self) -> Mode:
        """At scale 1 all modes are one policy, the conditional branch alone."""
        return self.mode if self.guided else "none"


@torch.no_grad()
def denoise(
    adapter: Adapter,
    condition: Condition,
    negative: Condition | None,
    *,
    group_size: int,
    sampler: Sampler,
    noise: Noise,
    max_batch: int | None = None,
) -> Trajectory:
    """Sample `group_size` pictures for each of P prompts, B = P * group_size rows, group-major.

    `negative` has one row for all prompts or one for each, and is needed when the sampler is guided. `max_batch` bounds the
    rows of one forward. The two branches are separate forwards (one of 2B rows was not faster), so that the
    conditional one is the same computation here and in `replay`.
    """
    rows = group_index(len(condition), group_size)
    prefix = adapter.prefix(condition).select(rows)
    unconditional = _negative_prefix(adapter, negative, rows) if sampler.guided else None
    x = noise("init").float()
    sigmas = sampler.sigmas.to(device=x.device, dtype=torch.float32)
    stored: list[_Step] = []
    for n in range(len(sigmas) - 1):
        v_cond = _velocity(adapter, x, sigmas[n].expand(len(x)), prefix, max_batch)
        v_uncond = None
        if unconditional is not None:
            v_uncond = _velocity(adapter, x, sigmas[n].expand(len(x)), unconditional, max_batch)
        if n in sampler.steps:
            stored.append(_stored_step(sampler, x, sigmas[n], sigmas[n + 1], v_cond, v_uncond, partial(noise, n)))
            x = stored[-1].after
        else:
            v = guided(v_cond, v_uncond, sampler.guidance, sampler.rescale)
            x = transition("ode", v, x, sigmas[n], sigmas[n + 1], 0.0).mean
    return _trajectory(sigmas, sampler.steps, stored, x)


def replay(
    adapter: Adapter, prefix: Any, trajectory: Trajectory, sampler: Sampler, *, unconditional: Any = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, S) and conditional velocities (B, S, *X) of the stored steps at the adapter's present weights.

    One forward of B * S rows (two in mode "both", which needs the `unconditional` prefix); split with `take` for smaller ones.
    Differentiable. The stored steps must be stochastic; for ODE steps take `stored_velocities`. For KL, or a ratio free of
    rounding, build the `policy` Gaussian from the velocities.
    """
    velocities_BSX = stored_velocities(adapter, prefix, trajectory)
    v_uncond = stored_velocities(adapter, unconditional, trajectory) if sampler.policy_mode == "both" else None
    log_probs = policy(trajectory, sampler, velocities_BSX, v_uncond).log_prob(trajectory.next_states_BSX.flatten(0, 1))
    return log_probs.unflatten(0, velocities_BSX.shape[:2]), velocities_BSX


def stored_velocities(adapter: Adapter, prefix: Any, trajectory: Trajectory) -> Tensor:
    """(B, S, *X) velocities at the stored states, all in one forward; `prefix` has B rows."""
    states = trajectory.states_BSX
    num_rows, num_steps = states.shape[:2]
    rows = torch.arange(num_rows, device=states.device).repeat_interleave(num_steps)
    sigma_S, _ = _stored_sigmas(trajectory)
    v = adapter.velocity(states.flatten(0, 1), sigma_S.repeat(num_rows), prefix.select(rows))
    return v.unflatten(0, (num_rows, num_steps))


def policy(trajectory: Trajectory, sampler: Sampler, velocities_BSX: Tensor, v_uncond_BSX: Tensor | None = None) -> Gaussian:
    """The B * S transitions (rows b * S + s) of the policy whose conditional velocities these are, at the stored states."""
    return _transitions(trajectory, sampler, policy_velocities(trajectory, sampler, velocities_BSX, v_uncond_BSX))


def old_policy(trajectory: Trajectory, sampler: Sampler) -> Gaussian:
    """The B * S transitions of the policy that the rollout itself followed (in mode "conditional": is compared with)."""
    return _transitions(trajectory, sampler, old_velocities(trajectory))


def policy_velocities(
    trajectory: Trajectory, sampler: Sampler, velocities_BSX: Tensor, v_uncond_BSX: Tensor | None = None
) -> Tensor:
    """(B, S, *X) velocities that define the trained policy at the stored states, from those of its branches."""
    return _policy_velocity(sampler, velocities_BSX, v_uncond_BSX, trajectory.offsets_BSX)


def old_velocities(trajectory: Trajectory) -> Tensor:
    """(B, S, *X) the same of the rollout's weights, in every mode."""
    if trajectory.offsets_BSX is None:
        return trajectory.velocities_BSX
    return policy_velocity("hybrid", trajectory.velocities_BSX, offset=trajectory.offsets_BSX)


def _transitions(trajectory: Trajectory, sampler: Sampler, v_BSX: Tensor) -> Gaussian:
    sigma_B, sigma_next_B = (sigma_S.repeat(len(v_BSX)) for sigma_S in _stored_sigmas(trajectory))
    return transition(
        sampler.kind, v_BSX.flatten(0, 1), trajectory.states_BSX.flatten(0, 1), sigma_B, sigma_next_B, sampler.eta
    )


def take(trajectory: Trajectory, rows: Tensor) -> Trajectory:
    """The trajectory of some of its samples, for micro-batches and for dropping samples without a signal."""
    rows = rows.to(trajectory.final_BX.device)
    return replace(
        trajectory,
        states_BSX=trajectory.states_BSX[rows],
        next_states_BSX=trajectory.next_states_BSX[rows],
        log_probs_BS=trajectory.log_probs_BS[rows],
        offsets_BSX=None if trajectory.offsets_BSX is None else trajectory.offsets_BSX[rows],
        velocities_BSX=trajectory.velocities_BSX[rows],
        final_BX=trajectory.final_BX[rows],
    )


def negative_rows(negative: Condition, rows: Tensor) -> Tensor:
    """Which row of `negative` serves each sample: its prompt's, or the only one."""
    return rows if len(negative) > 1 else torch.zeros_like(rows)


@dataclass(frozen=True, eq=False)
class _Step:
    """One stored step; fields as in Trajectory, without the axis S."""

    before: Tensor
    after: Tensor
    log_prob: Tensor
    offset: Tensor | None
    velocity: Tensor


def _stored_step(
    sampler: Sampler,
    x: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    v_cond: Tensor,
    v_uncond: Tensor | None,
    noise: Callable[[], Tensor],
) -> _Step:
    v_guided = guided(v_cond, v_uncond, sampler.guidance, sampler.rescale)
    g = offset(v_guided, v_cond) if sampler.policy_mode in ("hybrid", "both") else None
    v_policy = _policy_velocity(sampler, v_cond, v_uncond, g)
    # Only "conditional" samples from another policy than the one it trains; hybrid must step with v_cond + g as replay sees it.
    behaviour = v_guided if sampler.policy_mode == "conditional" else v_policy
    step = transition(sampler.kind, behaviour, x, sigma, sigma_next, sampler.eta)
    if sampler.kind == "ode":
        return _Step(x, step.mean, x.new_full((len(x),), float("nan")), g, v_cond)
    after = step.sample(noise())
    log_prob = transition(sampler.kind, v_policy, x, sigma, sigma_next, sampler.eta).log_prob(after)
    return _Step(x, after, log_prob, g, v_cond)


def _policy_velocity(sampler: Sampler, v_cond: Tensor, v_uncond: Tensor | None, g: Tensor | None) -> Tensor:
    if sampler.policy_mode == "both":
        return policy_velocity("both", v_cond, v_uncond=v_uncond, scale=sampler.guidance, rescale=sampler.rescale)
    return policy_velocity(sampler.policy_mode, v_cond, offset=g)


def _trajectory(sigmas: Tensor, steps: tuple[int, ...], stored: list[_Step], final: Tensor) -> Trajectory:
    def along_s(parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack(parts, dim=1) if parts else final.new_empty(shape)

    none = (final.shape[0], 0, *final.shape[1:])
    return Trajectory(
        sigmas=sigmas,
        steps=steps,
        states_BSX=along_s([s.before for s in stored], none),
        next_states_BSX=along_s([s.after for s in stored], none),
        log_probs_BS=along_s([s.log_prob for s in stored], none[:2]),
        offsets_BSX=along_s([s.offset for s in stored if s.offset is not None], none) if _has_offsets(stored) else None,
        velocities_BSX=along_s([s.velocity for s in stored], none),
        final_BX=final,
    )


def _has_offsets(stored: list[_Step]) -> bool:
    return bool(stored) and stored[0].offset is not None


def _stored_sigmas(trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """(S,) each: where the stored steps start and land."""
    start = torch.tensor(trajectory.steps, dtype=torch.long, device=trajectory.sigmas.device)
    return trajectory.sigmas[start], trajectory.sigmas[start + 1]


def _negative_prefix(adapter: Adapter, negative: Condition | None, rows: Tensor) -> Any:
    if negative is None:
        raise ValueError("the sampler is guided, which needs a negative condition; encode one, or set guidance to 1")
    return adapter.prefix(negative).select(negative_rows(negative, rows))


def _velocity(adapter: Adapter, x: Tensor, sigma_B: Tensor, prefix: Any, max_batch: int | None) -> Tensor:
    if max_batch is None or len(x) <= max_batch:
        return adapter.velocity(x, sigma_B, prefix)
    chunks = torch.arange(len(x), device=x.device).split(max_batch)
    return torch.cat([adapter.velocity(x[rows], sigma_B[rows], prefix.select(rows)) for rows in chunks])
