"""Losses as pure functions of tensors. Metrics are detached 0-d tensors, so that nothing here waits for an accelerator."""

from __future__ import annotations

import torch
from torch import Tensor

from tastemaker.flow.precision import mean_over_elements, require_same_shape, widened

MAX_LOG_RATIO = 20.0
"""Log ratios are held within +-20 (a ratio of 5e8): exp would overflow, and 0 * inf in its gradient poison every weight."""


def clipped_surrogate(
    log_ratio_BS: Tensor,
    advantages_B: Tensor,
    clip_range: float,
    *,
    clip_high: float | None = None,
    weights_S: Tensor | None = None,
    at_old: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """- mean_B mean_S min(r A, clip(r, 1 - clip_range, 1 + clip_high) A), r = exp(log_ratio)  (Eq. 4).

    `log_ratio_BS` is in nats per latent element, which is why clip ranges are around 1e-4: the ratio is the D-th root of
    the true one for D elements. `clip_high` defaults to `clip_range`. `weights_S` (at least 0, not all 0) makes the mean
    over steps a weighted mean; only their proportions matter. r - 1 is kept instead of r, since float32 knows 1 + 1e-6 to
    one digit only. `at_old` says that the weights are still the old policy's: r is then exactly 1, with its gradient, because
    all that `log_ratio_BS` is there is rounding, which must not clip.

    Metrics: clip_fraction (of the B x S terms, those whose gradient the clip removes), mean_abs_log_ratio and approx_kl
    (nats per element), max_ratio; all but the first are of the given log ratio, `at_old` too. approx_kl is - mean log ratio,
    unbiased for KL(old || new) per element when the samples are old's; the usual r - 1 - log r would be about D times too
    small for a per-element ratio, and of a *normalised* log ratio neither is a KL.
    """
    clip_high = clip_range if clip_high is None else clip_high
    if not (0 < clip_range < 1 and clip_high > 0):
        raise ValueError(f"clip range is ({clip_range}, {clip_high}); the lower must lie in (0, 1) and the upper above 0")
    if log_ratio_BS.ndim != 2 or advantages_B.shape != log_ratio_BS.shape[:1]:
        shapes = f"{tuple(log_ratio_BS.shape)} and {tuple(advantages_B.shape)}"
        raise ValueError(f"log_ratio_BS and advantages_B have shapes {shapes}, expected (B, S) and (B,)")
    log_ratio_BS, advantages_B1 = widened(log_ratio_BS), widened(advantages_B).detach()[:, None]
    held_BS = log_ratio_BS.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    excess_BS = (held_BS - held_BS.detach() if at_old else held_BS).expm1()
    clipped_BS = excess_BS.clamp(-clip_range, clip_high)
    gain_BS = advantages_B1 + torch.minimum(excess_BS * advantages_B1, clipped_BS * advantages_B1)
    loss = -_mean_over_steps(gain_BS, weights_S).mean()
    with torch.no_grad():
        inactive_BS = ((excess_BS > clip_high) & (advantages_B1 > 0)) | ((excess_BS < -clip_range) & (advantages_B1 < 0))
        metrics = {
            "clip_fraction": inactive_BS.float().mean(),
            "mean_abs_log_ratio": log_ratio_BS.abs().mean(),
            "max_ratio": 1 + held_BS.expm1().max(),
            "approx_kl": -log_ratio_BS.mean(),
        }
    return loss, metrics


def normalised_log_ratio(log_ratio: Tensor, kl: Tensor, std: float | Tensor, gain: float | Tensor | None = None) -> Tensor:
    """(log_ratio + kl) std [/ |gain|]: mean 0 under the old policy and, with `gain`, one scale at every step; same shape.

    With mu_new - mu_old = b dv and x = mu_old + std xi, both per element,
        log_ratio = -|b dv|^2/(2 std^2) + <xi, b dv>/std        kl = |b dv|^2/(2 std^2)
    so adding `kl` (of old and new, `transition.kl`, gradient included) removes the negative mean exactly, and what is left
    is <xi, b dv>, with variance b^2 |dv|^2/D: this is RatioNorm of GRPO-Guard (arXiv 2510.22319). That scale still follows
    |b|, about the step length, which GRPO-Guard mends by weighting the loss of each step; dividing by |gain|
    (`transition.velocity_gain`, negative) leaves -<xi, dv>: one velocity change has one scale at every step and one clip
    range fits all. Clip ranges for the raw, the RatioNorm and the gain form are three different numbers.
    """
    result = (widened(log_ratio) + widened(kl)) * std
    result = result if gain is None else result / torch.as_tensor(gain).abs()
    if result.shape != log_ratio.shape:
        raise ValueError(
            f"log_ratio {tuple(log_ratio.shape)} became {tuple(result.shape)}; give kl, std and gain one value per log ratio"
        )
    return result


def velocity_kl(v: Tensor, v_ref: Tensor) -> Tensor:
    """(B,) mean over elements of (v - v_ref)^2, velocity units squared; no gradient to `v_ref`.

    Times gain^2 / (2 std^2) of a step it is that step's Gaussian KL in nats per element (`transition.kl`). The plain form
    does not depend on the sampler and does not blow up where std is small; Eq. 5 uses it as penalty, Eq. 7 as loss.
    """
    require_same_shape(v=v, v_ref=v_ref)
    return mean_over_elements((widened(v) - widened(v_ref).detach()).square())


def negative_aware(v: Tensor, v_old: Tensor, target: Tensor, r_B: Tensor, strength: float) -> Tensor:
    """(B,) r |v+ - target|^2 + (1 - r) |v- - target|^2, mean over elements  (Eq. 5, DiffusionNFT).

        v+ = b v + (1 - b) v_old        v- = (1 + b) v_old - b v,        b = strength

    `v`, `v_old` and `target` (noise - data of a sample) are (B, *X); r in [0, 1] says how good the sample is, 1/2 is neutral.
    At v = v_old the gradient to v is 2 b (2 r - 1) (v_old - target) / D; at r = 1/2 the loss is |v_old - target|^2 +
    b^2 |v - v_old|^2 and holds v where it is. No gradient to `v_old`.
    """
    require_same_shape(v=v, v_old=v_old, target=target)
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; it must be above 0 and at most 1")
    v, v_old, target = widened(v), widened(v_old).detach(), widened(target).detach()
    positive_B = mean_over_elements((v_old + strength * (v - v_old) - target).square())
    negative_B = mean_over_elements((v_old - strength * (v - v_old) - target).square())
    return r_B * positive_B + (1 - r_B) * negative_B


def flow_matching_loss(v_pred: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Scalar mean of (v_pred - (noise - x0))^2: what a velocity model is pre-trained on."""
    require_same_shape(v_pred=v_pred, x0=x0, noise=noise)
    return (widened(v_pred) - (widened(noise) - widened(x0))).square().mean()


def _mean_over_steps(values_BS: Tensor, weights_S: Tensor | None) -> Tensor:
    if weights_S is None:
        return values_BS.mean(1)
    if weights_S.shape != values_BS.shape[1:]:
        raise ValueError(
            f"weights_S has shape {tuple(weights_S.shape)}, expected ({values_BS.shape[1]},): one per trained step"
        )
    weights_S = weights_S.to(values_BS)
    return (values_BS * weights_S).sum(1) / weights_S.sum()
