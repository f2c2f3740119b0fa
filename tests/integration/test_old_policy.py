"""An old policy that lags behind: what is drawn with it, what is learnt against it, and that it survives a kill."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mixed import config, go, prompts
from test_training import assert_same, nft, weights
from test_training import go as go_texts
from test_training import made as made_texts
from test_training_killed import Killed

import tastemaker.training.policy as policy
import tastemaker.training.start as start
import tastemaker.training.update as update
from tastemaker.config import NFTConfig, TrainConfig
from tastemaker.runtime.metrics import read_lines

LAG = {"name": "nft", "points": 2, "updates_per_rollout": 2, "old_policy": {"decay": 0.5, "rise": 0.2}}


def lagging(**changes) -> TrainConfig:
    return nft(algorithm=LAG, **changes)


@pytest.mark.parametrize("kind", [{"kind": "full"}, {"kind": "lora", "rank": 2, "alpha": 4}])
def test_it_draws_and_is_learnt_against_as_written_down_by_hand(tmp_path, monkeypatch, kind):
    """old_0 = live_0; old_i = eta_i old_(i-1) + (1 - eta_i) live_i with eta_i = min(0.2 i, 0.5), in float64."""
    states, drawn_with, compared_with, live = [], [], [], []
    make_state = start.make_state
    monkeypatch.setattr(start, "make_state", lambda *args: states.append(make_state(*args)) or states[0])
    for module, name, seen in ((policy, "rollout", drawn_with), (update, "forward_process", compared_with)):

        def watching(original, seen, *args):
            seen.append(weights(states[0]))
            return original(*args)

        monkeypatch.setattr(module, name, partial(watching, getattr(module, name), seen))
    state = go_texts(lagging(policy=kind), tmp_path, after_step=lambda *args: live.append(weights(states[0])))
    old = {name: value.double() for name, value in drawn_with[0].items()}
    for number in range(4):
        assert_same(drawn_with[number], compared_with[number])
        assert all(torch.allclose(value.double(), old[name], atol=1e-6) for name, value in drawn_with[number].items())
        eta = min(0.2 * (number + 1), 0.5)
        old = {name: eta * value + (1 - eta) * live[number][name].double() for name, value in old.items()}
    assert all(torch.allclose(value.double(), old[name], atol=1e-6) for name, value in state.old.items())
    assert any((value - live[-1][name]).abs().max() > 1e-5 for name, value in state.old.items())
    assert_same(weights(state), live[-1])


def test_the_first_gradient_after_a_lag_is_not_that_of_the_present_weights(tmp_path):
    """kl_old is the distance from the old policy before the first update of a step: 0 without a lag, not 0 with one."""
    for name, algorithm, zero in (("none", {**LAG, "old_policy": None}, True), ("lag", LAG, False)):
        go_texts(nft(algorithm={**algorithm, "updates_per_rollout": 1}, budget={"max_steps": 2}), tmp_path / name)
        later = [line["kl_old"] for line in read_lines(tmp_path / name / "metrics.jsonl")[1:]]
        assert all((value < 1e-9) == zero for value in later), later


def test_a_lag_of_nothing_is_no_lag(tmp_path):
    """With eta 0 at the end of each step the old policy is the present one."""
    short = {"budget": {"max_steps": 2}}
    tiny = {**LAG, "old_policy": {"decay": 1e-9, "rise": 1e-9}}
    assert_same(
        weights(go_texts(nft(algorithm=tiny, **short), tmp_path / "tiny")),
        weights(go_texts(nft(algorithm={**LAG, "old_policy": None}, **short), tmp_path / "none")),
    )


@pytest.mark.parametrize("kind", [{"kind": "full"}, {"kind": "lora", "rank": 2, "alpha": 4}])
def test_it_is_saved_and_resumed_bit_for_bit(tmp_path, monkeypatch, kind):
    some = prompts(tmp_path / "pictures")
    run = config("nft", algorithm=LAG, policy=kind, rollout={"prompts": 3}, budget={"max_steps": 3})
    whole = go(run, some, tmp_path / "whole")
    original, calls = policy.signal_of, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(policy, "signal_of", dies)
        with pytest.raises(Killed):
            go(run, some, tmp_path / "parts")
    resumed = go(run, some, tmp_path / "parts")
    assert_same(weights(whole), weights(resumed))
    assert_same(whole.old, resumed.old)
    assert any(not torch.equal(value, whole.old[name]) for name, value in weights(whole).items())


def test_the_present_weights_come_back_whatever_happens_meanwhile():
    _, state = made_texts(lagging())
    with torch.no_grad():
        for _, value in state.named():
            value.add_(1.0)
    live = weights(state)
    with pytest.raises(RuntimeError), state.as_old():
        assert any(not torch.equal(value, live[name]) for name, value in state.named())
        raise RuntimeError
    assert_same(live, weights(state))


def test_a_lag_switched_on_for_a_resumption_starts_at_the_resumed_weights(tmp_path):
    go_texts(nft(algorithm={**LAG, "old_policy": None}, budget={"max_steps": 2}), tmp_path)
    _, state = made_texts(lagging())
    saved = state.tensors()
    del saved["old"]
    for value in saved["policy"].values():
        value.add_(0.5)
    _, other = made_texts(lagging())
    other.restore(saved, state.plain())
    assert_same(weights(other), other.old)


def test_grpo_has_no_such_setting():
    assert "old_policy" in NFTConfig.model_fields
    with pytest.raises(ValueError, match="old_policy"):
        TrainConfig(
            name="a",
            model="m",
            data={"prompts": "p"},
            rewards=({"name": "r"},),
            algorithm={"name": "grpo", "old_policy": {}},
        )
    assert NFTConfig(old_policy={}).old_policy.model_dump() == {"decay": 0.5, "rise": 0.001}
