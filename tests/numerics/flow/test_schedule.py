"""Schedules against diffusers' scheduler, the program users sample with."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from tastemaker.flow.schedule import dynamic_shift, high_noise_window, shifted_sigmas


@pytest.mark.parametrize("tokens", [1, 256, 1024, 4096, 8192, 20000])
def test_dynamic_shift_is_the_pipelines_line(tokens):
    assert dynamic_shift(tokens) == pytest.approx(calculate_shift(tokens, 256, 8192, 0.5, 0.9), abs=1e-12)
    assert dynamic_shift(tokens, 256, 4096, 0.5, 1.15) == pytest.approx(calculate_shift(tokens), abs=1e-12)


@pytest.mark.parametrize("num_steps", [2, 5, 40])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("terminal", [None, 0.02])
@pytest.mark.parametrize("mu", [0.5, 0.9, 2.3])
def test_dynamic_schedule_equals_diffusers(num_steps, kind, terminal, mu):
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind, shift_terminal=terminal, shift=3.0
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)
    ours = shifted_sigmas(num_steps, mu=mu, kind=kind, terminal=terminal, shift=3.0)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_static_schedule_equals_diffusers_own_grid(num_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    torch.testing.assert_close(shifted_sigmas(num_steps, shift=shift), scheduler.sigmas, rtol=0, atol=1e-6)


def test_given_sigmas_equal_diffusers():
    grid = [0.9, 0.5, 0.2, 0.01]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.1)
    scheduler.set_timesteps(sigmas=grid)
    torch.testing.assert_close(shifted_sigmas(4, shift=3.0, terminal=0.1, sigmas=grid), scheduler.sigmas, rtol=0, atol=1e-6)


def test_a_schedule_falls_strictly_from_one_to_zero():
    for mu in (None, 0.5, 5.0):
        sigmas = shifted_sigmas(100, mu=mu, terminal=0.02)
        assert sigmas[0] == 1 and sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"num_steps": 0}, "at least 1 step"),
        ({"num_steps": 2, "sigmas": [1.0]}, "one per step"),
        ({"num_steps": 2, "sigmas": [0.5, 0.5]}, "fall strictly"),
        ({"num_steps": 2, "sigmas": [1.0, 0.0]}, "fall strictly"),
        ({"num_steps": 2, "sigmas": [1.5, 0.5]}, "fall strictly"),
        ({"num_steps": 2, "sigmas": [1.0, float("nan")]}, "fall strictly"),
        ({"num_steps": 1, "terminal": 0.02}, "cannot be stretched"),
        ({"num_steps": 4, "terminal": 1.0}, "between 0 and 1"),
        ({"num_steps": 4, "mu": -0.5, "kind": "linear"}, "positive"),
        ({"num_steps": 4, "shift": 0.0}, "positive"),
        ({"num_steps": 4, "mu": 0.5, "kind": "cosine"}, "exponential"),
    ],
)
def test_unusable_schedules_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        shifted_sigmas(**arguments)


def test_high_noise_window():
    assert high_noise_window(10, 3) == (0, 1, 2)
    assert high_noise_window(10, 3, start=6) == (6, 7, 8)
    for num_steps, size, start in [(10, 3, 7), (10, 10, 0), (1, 1, 0)]:
        with pytest.raises(ValueError, match="sigma = 0"):
            high_noise_window(num_steps, size, start)
    for size, start in [(0, 0), (1, -1)]:
        with pytest.raises(ValueError, match="at least"):
            high_noise_window(10, size, start)
