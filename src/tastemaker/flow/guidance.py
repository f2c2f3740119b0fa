"""Classifier-free guidance, and the four ways a policy-gradient update can treat a guided rollout.

Rollouts are guided because the base model needs it; the question is which velocity defines the *trained* policy. With v_c,
v_u the conditional and unconditional velocities, v_g = guided(v_c, v_u, w), and g = v_g - v_c frozen at the rollout's
weights:

    mode          rollout   old log-prob   new log-prob               forwards in the update   ratio at the old weights
    none          v_c       v_c            v_c                        1                        1
    both          v_g       v_g            v_g (differentiated)       2                        1
    hybrid        v_g       v_c + g        v_c + g, g constant        1                        1
    conditional   v_g       v_c            v_c                        1                        1, but of another policy

- none: no guidance anywhere. Exact; a base that needs guidance loses the abilities it only has with it.
- both: guidance is part of the policy. Exact; the unconditional branch is trained too, and the reported runs collapsed.
- hybrid (default): the rollout's guidance is a constant push added to a policy that is conditional only. Exact at the old
  weights: the rollout *is* a sample of this policy. No distillation of guidance into the weights enters the gradient. The
  sampler guided at the new weights moves about w times as far as the ratio sees: the metric `kl_guided` says how far, where
  there is a reference (`velocity_kl` above 0), and more updates from one rollout widen what the ratio does not see.
- conditional: rollout path guided, both log-probs of the unguided policy, the old one re-evaluated on that path. Biased:
  the residual of the path is std xi + b g, so the gradient gains A b^2/std^2 <g, grad v_c>, and the importance weight
  between the guided path and the conditional policy (e^-100 and far less) is left out.

The literal mixture, "guided old log-prob, unguided new log-prob", has no name here. At the old weights its log ratio is
already -b^2 |g|^2 / (2 std^2), tens to thousands of clip ranges below 0: every sample with a negative advantage is clipped
away, and those with a positive one pull v_c towards v_g, so that guidance is distilled instead of rewards learnt.
`check_modes` refuses it.

Velocity = noise - data. Results are float32 (float64 stays) unless nothing had to be computed.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from tastemaker.flow.precision import require_same_shape, widened

Mode = Literal["hybrid", "both", "none", "conditional"]


def guided(v_cond: Tensor, v_uncond: Tensor | None, scale: float, rescale: bool = False) -> Tensor:
    """v_u + scale (v_c - v_u), same shape; `scale` 1 returns `v_cond` itself (rescaling it would change nothing).

    With `rescale` each vector along the last axis gets the length of its v_c, as in Qwen-Image: that axis must be the
    channels of a token, so latents must be packed (B, tokens, channels). Guidance is then not linear in v_c, and gradients
    go through the lengths.
    """
    if scale == 1:
        return v_cond
    if v_uncond is None:
        raise ValueError(f"scale is {scale}, which needs the unconditional velocity; give v_uncond, or scale 1")
    require_same_shape(v_cond=v_cond, v_uncond=v_uncond)
    v_cond, v_uncond = widened(v_cond), widened(v_uncond)
    combined = v_uncond + scale * (v_cond - v_uncond)
    if not rescale:
        return combined
    length = torch.linalg.vector_norm(combined, dim=-1, keepdim=True).clamp_min(torch.finfo(combined.dtype).tiny ** 0.5)
    return combined * (torch.linalg.vector_norm(v_cond, dim=-1, keepdim=True) / length)


def offset(v_guided: Tensor, v_cond: Tensor) -> Tensor:
    """g = v_guided - v_cond, detached: what guidance added at the rollout's weights, whatever the guidance formula was.

    v_cond + g differs from v_guided by rounding. For a ratio of exactly 1 the rollout must therefore step with
    `policy_velocity("hybrid", v_cond, offset=g)` and with g in the precision it is stored in, not with v_guided.
    """
    require_same_shape(v_guided=v_guided, v_cond=v_cond)
    return (widened(v_guided) - widened(v_cond)).detach()


def policy_velocity(
    mode: Mode,
    v_cond: Tensor,
    *,
    offset: Tensor | None = None,
    v_uncond: Tensor | None = None,
    scale: float = 1.0,
    rescale: bool = False,
) -> Tensor:
    """The velocity that defines the trained policy, for the old log-prob (old weights) and the new one (new weights) alike.

    hybrid needs `offset` and holds it constant; both needs `v_uncond` and `scale`; none and conditional take `v_cond` alone. An
    argument the mode would ignore is an error, so that no guidance is dropped or added twice unseen.
    """
    _require_mode(mode)
    if (offset is not None) != (mode == "hybrid"):
        raise ValueError(f"mode {mode!r} {'needs the stored offset' if mode == 'hybrid' else 'takes no offset'}")
    if mode != "both" and (v_uncond is not None or scale != 1 or rescale):
        raise ValueError(f"mode {mode!r} evaluates the conditional branch only; v_uncond, scale and rescale belong to 'both'")
    if mode == "both":
        return guided(v_cond, v_uncond, scale, rescale)
    if offset is None:
        return v_cond
    require_same_shape(offset=offset, v_cond=v_cond)
    return widened(v_cond) + widened(offset).detach()


def check_modes(rollout_scale: float, mode: Mode) -> None:
    """Raises ValueError when a rollout guided with `rollout_scale` cannot be trained in `mode`; scale 1 means unguided.

    Mode "none" with a guided rollout is the literal mixture described above. At scale 1 all four modes are the same policy.
    """
    _require_mode(mode)
    if not (math.isfinite(rollout_scale) and rollout_scale >= 0):
        raise ValueError(f"the rollout's guidance scale is {rollout_scale}; it must be finite and at least 0 (1 = unguided)")
    if mode == "none" and rollout_scale != 1:
        raise ValueError(
            f"the rollout is guided (scale {rollout_scale}) but mode 'none' trains the unguided policy: new log-probs without "
            "guidance against old ones with it are tens to thousands of clip ranges apart before the first update, which clips "
            "away every negative advantage. Use 'hybrid' (guidance as a frozen offset), 'both' (guidance in the policy), "
            "'conditional' (old log-prob re-evaluated unguided, biased), or a rollout scale of 1"
        )


def _require_mode(mode: str) -> None:
    if mode not in get_args(Mode):
        raise ValueError(
            f"guidance mode is {mode!r}; it must be one of {', '.join(get_args(Mode))} (a guided old log-prob against an "
            "unguided new one has no mode: at the old weights its log ratio is tens to thousands of clip ranges)"
        )
