"""On-policy distillation: the student matches its teacher's velocity at states that it came to by itself (Eq. 7).

    student's own ODE trajectory, unguided -> teacher's velocity there, guided -> | v_student - v_teacher |^2

The student never sees guidance, so what guidance does to the teacher goes into its weights: it is sampled with one forward a
step. No reward, no advantage: each stored state has its own target. Left out: the path's dependence on the weights (gradients
go through the student at the stored states alone, as in the paper), and any state that the student would not come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tastemaker.flow.loss import velocity_kl
from tastemaker.rollout import Sampler
from tastemaker.types import Trajectory


@dataclass(frozen=True, kw_only=True)
class Distill:
    """`weighting` is that of a trajectory's states: `uniform`, or `delta_t`, by the length of the step that starts there."""

    weighting: Literal["uniform", "delta_t"] = "uniform"

    def weights_S(self, trajectory: Trajectory) -> Tensor:
        """Of the S stored states: 1/S times the weight over the mean weight of all N.

        So the loss expected over random subsets is that of all states. Weights that add up to 1 in every subset would favour
        short steps; here they do so only where all states are stored.
        """
        lengths_N = trajectory.sigmas[:-1] - trajectory.sigmas[1:]
        weights_N = torch.ones_like(lengths_N) if self.weighting == "uniform" else lengths_N
        stored = torch.tensor(trajectory.steps, dtype=torch.long, device=weights_N.device)
        return weights_N[stored] / (weights_N.mean() * len(stored))

    def loss(
        self,
        trajectory: Trajectory,
        advantages_B: Tensor,
        sampler: Sampler,
        velocities_BSX: Tensor,
        uncond_BSX: Tensor | None = None,
        reference_BSX: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """mean_B sum_S w_S |v_student - v_teacher|^2, mean over elements; the teacher's velocities are the trajectory's.

        `velocities_BSX` carries the gradient. The other arguments are those of every algorithm, and mean nothing here.
        """
        distance_B_S = velocity_kl(velocities_BSX.flatten(0, 1), trajectory.velocities_BSX.flatten(0, 1))
        distance_BS = distance_B_S.unflatten(0, velocities_BSX.shape[:2])
        weights_S = self.weights_S(trajectory).to(distance_BS)
        metrics = {"distance_first": distance_BS[:, 0].mean().detach(), "distance_last": distance_BS[:, -1].mean().detach()}
        return (distance_BS * weights_S).sum(1).mean(), metrics
