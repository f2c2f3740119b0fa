"""Flow-GRPO: the clipped surrogate on the log-probabilities of a rollout's stochastic steps (Eq. 4), advantages by Eq. 6.

What it is here: scores are normalised per reward inside each prompt's group; the old policy is the rollout's own, no pass is
spent on it; guidance enters as `flow.guidance` says, by default frozen into the rollout (hybrid), so that the update evaluates
and differentiates the conditional branch alone. Left out: a value network, an entropy bonus, whole-batch normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tastemaker.algorithms.groups import GroupRelative
from tastemaker.flow.loss import clipped_surrogate, normalised_log_ratio
from tastemaker.flow.transition import kl as gaussian_kl
from tastemaker.flow.transition import log_ratio, velocity_gain
from tastemaker.rollout import Sampler, old_policy, policy
from tastemaker.types import Trajectory


@dataclass(frozen=True, kw_only=True)
class GRPO(GroupRelative):
    """The settings of `config.GRPOConfig` that the mathematics needs."""

    clip_range: float
    ratio_norm: bool
    at_old: bool = False
    """No setting: the weights are still those of the rollout (`training.update.at_old_weights`), where the ratio is 1."""

    def loss(
        self,
        trajectory: Trajectory,
        advantages_B: Tensor,
        sampler: Sampler,
        velocities_BSX: Tensor,
        uncond_BSX: Tensor | None = None,
        reference_BSX: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of B samples at their S stored steps. `velocities_BSX` carries the gradient; the others are constants.

        `uncond_BSX` is for guidance mode "both" alone (and then carries gradient too); `reference_BSX` for the velocity KL.
        """
        shape_BS = velocities_BSX.shape[:2]
        new = policy(trajectory, sampler, velocities_BSX, uncond_BSX)
        old = old_policy(trajectory, sampler)
        ratio = log_ratio(new, old, trajectory.next_states_BSX.flatten(0, 1))
        divergence = gaussian_kl(old, new)
        if self.ratio_norm:
            sigmas, steps = trajectory.sigmas, list(trajectory.steps)
            after = [n + 1 for n in steps]
            gain_S = torch.stack(
                [velocity_gain(sampler.kind, sigmas[n], sigmas[m], sampler.eta) for n, m in zip(steps, after, strict=True)]
            )
            ratio = normalised_log_ratio(ratio, divergence, old.std.flatten(), gain_S.flatten().repeat(shape_BS[0]))
        loss, metrics = clipped_surrogate(ratio.unflatten(0, shape_BS), advantages_B, self.clip_range, at_old=self.at_old)
        metrics["kl_old"] = divergence.mean().detach()
        return self.near_reference(loss, metrics, velocities_BSX, reference_BSX)
