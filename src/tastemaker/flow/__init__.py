"""Pure math of flow matching on tensors: schedule, transition, guidance, advantage, loss. See docs/math.md."""

from tastemaker.flow.advantage import Advantages, composite, group_advantages
from tastemaker.flow.guidance import Mode, check_modes, guided, offset, policy_velocity
from tastemaker.flow.loss import clipped_surrogate, flow_matching_loss, normalised_log_ratio, velocity_kl
from tastemaker.flow.schedule import dynamic_shift, high_noise_window, shifted_sigmas
from tastemaker.flow.transition import Gaussian, Kind, kl, log_ratio, transition, velocity_gain

__all__ = [
    "Advantages",
    "Gaussian",
    "Kind",
    "Mode",
    "check_modes",
    "clipped_surrogate",
    "composite",
    "dynamic_shift",
    "flow_matching_loss",
    "group_advantages",
    "guided",
    "high_noise_window",
    "kl",
    "log_ratio",
    "normalised_log_ratio",
    "offset",
    "policy_velocity",
    "shifted_sigmas",
    "transition",
    "velocity_gain",
    "velocity_kl",
]
