"""DiffusionNFT: reinforcement learning on the forward process (Eq. 5). No log-probability, no stochastic sampler.

    rollout -> x0 of each sample -> x_t = (1 - sigma) x0 + sigma noise at a few sigmas -> velocities -> loss

Good samples pull the velocity towards themselves and bad ones push it away, by how far their advantage is from the group's
mean. What it is here: the old policy is that of the rollout, which has the trained weights, or with `NFTConfig.old_policy` an
average of them that lags behind (`PolicyState.as_old`); guidance enters as `flow.guidance` says, by default frozen (hybrid), so
that pictures are compared with the velocity that drew them. r is centred on 1/2 in each group: samples that are all equally
good move nothing, and guidance itself is not distilled into the weights. Left out: the self-normalised weighting of the
reference code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tastemaker.algorithms.groups import GroupRelative
from tastemaker.flow.loss import negative_aware, velocity_kl
from tastemaker.rollout import Noise, Sampler, old_velocities, policy_velocities
from tastemaker.types import Trajectory


@dataclass(frozen=True, kw_only=True)
class NFT(GroupRelative):
    """The settings of `config.NFTConfig` that the mathematics needs."""

    strength: float
    points: int
    sigma_low: float
    sigma_high: float

    def forward_points(self, trajectory: Trajectory, noise: Noise, shift: float) -> Trajectory:
        """`points` states of the forward process for each sample, as the stored steps of a trajectory; no velocities yet.

        Their sigmas are stratified: one in each of `points` equal parts of [sigma_low, sigma_high], at `shift` in [0, 1) of it,
        and the same for all samples, whose advantages are differences.
        """
        parts = torch.arange(self.points, dtype=torch.float64) + shift
        sigma_S = (self.sigma_high - (self.sigma_high - self.sigma_low) * parts / self.points).to(trajectory.sigmas)
        x0_BX = trajectory.final_BX
        states = [(1 - sigma) * x0_BX + sigma * noise(n) for n, sigma in enumerate(sigma_S)]
        states_BSX = torch.stack(states, dim=1)
        return replace(
            trajectory,
            sigmas=torch.cat([sigma_S, sigma_S.new_zeros(1)]),
            steps=tuple(range(self.points)),
            states_BSX=states_BSX,
            next_states_BSX=states_BSX,
            log_probs_BS=states_BSX.new_full(states_BSX.shape[:2], float("nan")),
            offsets_BSX=None,  # like the velocities, these belong to the new states
            velocities_BSX=torch.full_like(states_BSX, float("nan")),
        )

    def loss(
        self,
        trajectory: Trajectory,
        advantages_B: Tensor,
        sampler: Sampler,
        velocities_BSX: Tensor,
        uncond_BSX: Tensor | None = None,
        reference_BSX: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of B samples at their S points; `trajectory` is that of `forward_points`, with the old policy's velocities.

        `velocities_BSX` carries the gradient; `uncond_BSX` is for guidance mode "both" alone, and carries gradient too.
        """
        sigma_S = trajectory.sigmas[: len(trajectory.steps)].view(1, -1, *[1] * (trajectory.final_BX.ndim - 1))
        target_BSX = (trajectory.states_BSX - trajectory.final_BX[:, None]) / sigma_S  # noise - data
        new_BSX = policy_velocities(trajectory, sampler, velocities_BSX, uncond_BSX)
        old_BSX = old_velocities(trajectory)
        r_B = advantages_B.clamp(-self.advantage_clip, self.advantage_clip) / (2 * self.advantage_clip) + 0.5
        loss = negative_aware(new_BSX, old_BSX, target_BSX, r_B, self.strength).mean()
        moved = velocity_kl(new_BSX.detach().flatten(0, 1), old_BSX.flatten(0, 1)).mean()
        metrics = {"kl_old": moved}
        return self.near_reference(loss, metrics, velocities_BSX, reference_BSX)
