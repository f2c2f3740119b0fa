"""Before a rollout's first update the ratio is 1: what rounding makes of it clips nothing there, and does afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_training import drawn, gradients, made, settings

from tastemaker.runtime.guard import NanGuard
from tastemaker.training.batch import prepare
from tastemaker.training.policy import signal_of
from tastemaker.training.update import accumulate, update

ROUNDING = 0.02
"""Of a velocity; about what bf16 makes of one."""
GROUPS = torch.arange(4)
FIRST, SECOND = GROUPS[0::2], GROUPS[1::2]
KINDS = [
    ({"clip_range": 1e-4}, 1e-4),
    ({"clip_range": 1e-4, "guidance_mode": "both"}, 1e-4),
    ({"clip_range": 4e-4, "ratio_norm": True}, 0.1),
]


def rollout(**algorithm):
    """A setup of two mini-batches, the rollout of its first step as it was, and with rounding in the old velocities."""
    setup, state = made(settings(algorithm={"updates_per_rollout": 2, **algorithm}))
    state.updates = 1  # a first rollout with such a floor is refused
    batch = prepare(setup, 1)
    exact, _, scores = drawn(setup, batch)
    signal = signal_of(setup, batch, scores)
    assert signal.kept_B.all()
    noise = torch.randn(exact.velocities_BSX.shape, generator=torch.Generator().manual_seed(5))
    return setup, state, batch, signal, exact, replace(exact, velocities_BSX=exact.velocities_BSX + ROUNDING * noise)


def gradient_of(setup, state, batch, trajectory, signal, groups):
    metrics = accumulate(setup, batch, trajectory, signal, groups)
    found = gradients(state)
    state.drop_gradients()
    return found, metrics


def updated(monkeypatch, setup, state, batch, trajectory, signal):
    """Metrics of the step, and the gradients of each of its updates, which leave the weights where they are."""
    found = []
    monkeypatch.setattr(state, "update", lambda: (found.append(gradients(state)), state.drop_gradients()))
    setup = replace(setup, max_grad_norm=float("inf"))
    return update(setup, state, batch, trajectory, signal, NanGuard(lambda record: None)), found


def distance(left, right) -> float:
    """Relative, over all weights."""
    flat = [torch.cat([value.flatten() for _, value in sorted(found.items())]) for found in (left, right)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize(("kind", "near"), KINDS)
def test_rounding_clips_no_first_mini_batch_and_every_later_one(monkeypatch, kind, near):
    """The raw ratio's gradient does not depend on the old velocities; the normalised one's does, by their rounding."""
    setup, state, batch, signal, exact, rounded = rollout(**kind)
    wide = replace(setup, algorithm=replace(setup.algorithm, clip_range=0.9))
    expected = [gradient_of(wide, state, batch, exact, signal, groups)[0] for groups in (FIRST, SECOND)]
    clipped, as_measured = gradient_of(setup, state, batch, rounded, signal, FIRST)
    assert as_measured["clip_fraction"] > 0.1 and distance(clipped, expected[0]) > 2 * near

    metrics, (first, second) = updated(monkeypatch, setup, state, batch, rounded, signal)
    assert distance(first, expected[0]) < near, "the first mini-batch has the exact gradient"
    assert distance(second, expected[1]) > 2 * near and 0.05 < metrics["clip_fraction"] < 0.5, "the second one is clipped"
    assert metrics["log_ratio_floor"] == pytest.approx(float(as_measured["mean_abs_log_ratio"]), rel=1e-3)
    assert metrics["mean_abs_log_ratio"] > 0 and metrics["max_ratio"] > 1


def test_without_rounding_nothing_changes(monkeypatch):
    setup, state, batch, signal, exact, _ = rollout()
    expected = [gradient_of(setup, state, batch, exact, signal, groups)[0] for groups in (FIRST, SECOND)]
    metrics, found = updated(monkeypatch, setup, state, batch, exact, signal)
    assert max(map(distance, found, expected)) < 1e-4 and metrics["clip_fraction"] == 0


def test_a_first_mini_batch_that_was_skipped_leaves_the_weights_where_they_were(monkeypatch):
    setup, state, batch, signal, exact, rounded = rollout(clip_range=1e-4)
    expected, _ = gradient_of(setup, state, batch, exact, signal, SECOND)
    spoilt = signal.advantages_B.clone()
    spoilt[0] = float("nan")
    metrics, (found,) = updated(monkeypatch, setup, state, batch, rounded, replace(signal, advantages_B=spoilt))
    assert metrics["updates_skipped"] == 1 and metrics["clip_fraction"] == 0
    assert distance(found, expected) < 1e-4
