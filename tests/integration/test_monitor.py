"""The monitor beside the real training loop, in a toy world where a run takes a second: what it notices, and what survives."""

from __future__ import annotations

import json

import pytest
import torch

import toy_world as toy
from tastemaker.config import TrainConfig
from tastemaker.errors import Alarmed, Stopped, UserMistake
from tastemaker.evaluation import monitor
from tastemaker.evaluation.alarm import Verdict
from tastemaker.evaluation.monitor import Plan, watching
from tastemaker.rewards.reward import Missing
from tastemaker.runtime import checkpoint
from tastemaker.runtime.metrics import read_lines
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.start import Task, run_training

BOUGHT = "prompt-free reward"
BARELY = 2.0
"""A threshold that a few steps are enough for."""


def go(folder, reward=None, *, seed=0, steps=12, every=4, look=2, keep=3, watch=True, adapter=None, **others):
    """A run with a checkpoint each `every` steps and a check of the monitor each `look`."""
    reward = reward or toy.Loud()
    config = TrainConfig.model_validate(
        {
            "name": "toy",
            "seed": seed,
            "model": "toy",
            "data": {"prompts": "toy"},
            "rollout": {"prompts": 12, "group_size": 8, "steps": 6, "guidance": 1.0, "picture_side": toy.SIDE},
            "algorithm": {"name": "nft", "points": 2, "velocity_kl": 0.0, "updates_per_rollout": 2},
            "optimiser": {"learning_rate": 1e-3},
            "rewards": ({"name": reward.name, "floor": reward.floor},),
            "checkpoint": {"every": every, "keep": keep},
            "budget": {"max_steps": steps},
        }
    )
    more = {name: others.pop(name) for name in ("after_step", "stop_request", "allow_changes") if name in others}
    if "stop_request" in more:
        more["stop"] = more.pop("stop_request")
    said = []
    plan = Plan(toy.PROMPTS, **{"every": look, "samples": 4, "say": said.append, **others})
    task = Task(toy.PROMPTS, {reward.name: reward}, toy.SIDE, toy.SIDE)
    state = run_training(config, adapter or toy.ToyAdapter(), task, folder, watch=watching(plan) if watch else None, **more)
    return state, said


def lines(folder):
    return read_lines(folder / "monitor.jsonl")


def untimed(records):
    return [{name: value for name, value in record.items() if name not in ("time", "seconds")} for record in records]


def incidents(folder):
    return [line for line in read_lines(folder / "incidents.jsonl") if line["kind"].startswith("monitor")]


@pytest.mark.parametrize("seed", range(20))
def test_a_bought_reward_is_told_from_an_earned_one(tmp_path, seed):
    """Both rewards rise, and both move the saturation. The monitor knows no truth, and stops the one that rises whatever the
    prompt before truth is down by one standard deviation of the base's set from noise to noise; the other is not accused."""
    start = toy.share_right(toy.ToyAdapter())
    adapter = toy.ToyAdapter()
    with pytest.raises(Alarmed, match=BOUGHT):
        go(tmp_path / "loud", toy.Loud(), seed=seed, steps=24, stop=True, adapter=adapter, look=1)
    # 48 pictures, of which `start` are right: their share varies by at least this from noise to noise.
    assert (toy.share_right(adapter) - start) / (start * (1 - start) / 48) ** 0.5 > -1
    adapter = toy.ToyAdapter()
    go(tmp_path / "hue", toy.Hue(), seed=seed, adapter=adapter, look=4)
    assert not any(record["alarms"] for record in lines(tmp_path / "hue"))
    assert toy.share_right(adapter) > start


class Truth(toy.Right):
    """Beside the rewards, and never trained on."""


def test_watching_changes_no_weight(tmp_path):
    watched, _ = go(tmp_path / "a", steps=4)
    alone, _ = go(tmp_path / "b", steps=4, watch=False)
    for (name, left), (_, right) in zip(watched.named(), alone.named(), strict=True):
        assert torch.equal(left, right), name
    assert not (tmp_path / "b" / "monitor").exists()


def test_a_line_says_where_every_statistic_stands(tmp_path):
    go(tmp_path, steps=4, truths=[Truth()])
    records = lines(tmp_path)
    assert [record["step"] for record in records] == [0, 2, 4]
    assert records[0]["velocity_distance"] == 0 < records[1]["velocity_distance"] < records[2]["velocity_distance"]
    names = records[-1]["statistics"].keys()
    assert {"saturation", "diversity", "prompt_effect", "reward", "swapped_reward", "truth/right"} <= names
    assert "grid" not in names  # pictures of two patches a side
    for record in records:
        for one in record["statistics"].values():
            assert one["distance"] == pytest.approx((one["value"] - one["base"]) / one["spread"])
        found = record["intervals"]["reward/loud"]
        assert found["n"] == 12 and found["low"] < found["mean"] < found["high"]
    for record in records[1:]:
        assert (tmp_path / record["pictures"]).is_file()
    assert (tmp_path / "images/monitor/base.png").is_file()


def test_a_kill_costs_no_line_and_doubles_none(tmp_path):
    """Killed after an alarm, before it was saved: the steps are trained again and the alarm is one incident."""

    def die(step, images, batch):
        if step == 5:
            raise KeyboardInterrupt

    straight, _ = go(tmp_path / "straight", steps=8, every=3, threshold=BARELY)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", steps=8, every=3, threshold=BARELY, after_step=die)
    assert [line["step"] for line in lines(tmp_path / "killed")] == [0, 2, 4]
    before = (tmp_path / "killed/monitor/baseline.json").stat()
    first_alarm = next(line for line in incidents(tmp_path / "killed") if line["kind"] == "monitor alarm")
    assert first_alarm["step"] == 4, "the checkpoint is of step 3"
    resumed, _ = go(tmp_path / "killed", steps=8, every=3, threshold=BARELY)
    after = (tmp_path / "killed/monitor/baseline.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert untimed(lines(tmp_path / "killed")) == untimed(lines(tmp_path / "straight"))
    assert untimed(incidents(tmp_path / "killed")) == untimed(incidents(tmp_path / "straight"))
    for (name, left), (_, right) in zip(straight.named(), resumed.named(), strict=True):
        assert torch.equal(left, right), name


def test_switched_on_later_it_still_compares_with_the_base(tmp_path):
    go(tmp_path / "late", steps=6, watch=False)
    go(tmp_path / "late", steps=12, truths=[Truth()])
    go(tmp_path / "early", steps=12, truths=[Truth()])
    late, early = (json.loads((tmp_path / name / "monitor/baseline.json").read_text()) for name in ("late", "early"))
    assert late == early
    assert [line["step"] for line in lines(tmp_path / "late")] == [0, 8, 10, 12]
    assert untimed(lines(tmp_path / "late"))[-1]["statistics"] == untimed(lines(tmp_path / "early"))[-1]["statistics"]


def test_an_alarm_ends_the_run_and_keeps_what_was_before(tmp_path):
    with pytest.raises(Alarmed) as caught:
        go(tmp_path, steps=40, every=3, keep=1, stop=True)
    step = lines(tmp_path)[-1]["step"]
    clean = step - 2  # the check before; of what was saved after it nobody knows
    assert lines(tmp_path)[-2]["step"] == clean >= 3 and not lines(tmp_path)[-2]["alarms"]
    good = f"step-{clean // 3 * 3:08d}"
    assert caught.value.exit_code == 4
    assert f"ended the run at step {step}: {BOUGHT}" in str(caught.value) and good in str(caught.value)
    saved = [good, f"step-{step:08d}"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == saved
    assert checkpoint.load(tmp_path / "checkpoints", int(good[5:])).step == int(good[5:])

    with pytest.raises(Alarmed) as again:  # the same command trains no further
        go(tmp_path, steps=40, every=3, keep=1, stop=True)
    assert str(again.value) == str(caught.value) and lines(tmp_path)[-1]["step"] == step

    go(tmp_path, steps=step + 6, every=3, keep=1)  # unless it is told to
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == [good, f"step-{step + 6:08d}"]
    assert [line["step"] for line in incidents(tmp_path) if line["kind"] == "monitor alarm"] == [step]


def test_each_new_alarm_keeps_what_the_check_before_it_found_good(tmp_path, monkeypatch):
    """Two alarms in a row are one; after a check without, the next is another. No step that an alarm saw is kept for good."""
    raised = {4: False, 6: True, 8: True, 10: False, 12: False, 14: True}
    steps = iter([2, *raised])

    def verdict(readings):
        return Verdict((), {"planted": ()} if raised.get(next(steps)) else {})

    monkeypatch.setattr(monitor, "judge", verdict)
    go(tmp_path, toy.Hue(), steps=14, every=1, keep=1)
    found = {line["step"]: line["last_good"] for line in lines(tmp_path) if "last_good" in line}
    assert found == {6: "step-00000004", 14: "step-00000012"}
    assert checkpoint.steps(tmp_path / "checkpoints") == [4, 12, 14]


def test_a_base_judged_by_another_judge_is_refused(tmp_path):
    """Of the same name: its scores would be held against the bands of the other's."""

    class Signed(toy.Loud):
        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

    go(tmp_path, Signed("a"), steps=2)
    go(tmp_path, Signed("a"), steps=3)
    with pytest.raises(UserMistake, match="measured with other judges"):
        go(tmp_path, Signed("b"), steps=4, allow_changes=["judges"])


def test_the_line_in_the_terminal_says_all_that_is_needed(tmp_path):
    _, said = go(tmp_path, steps=8, threshold=BARELY)
    alarm = next(line for line in said if "ALARM" in line)
    step = int(alarm.split("step ")[1].split(":")[0])
    assert f"ALARM, {BOUGHT}" in alarm and "swapped reward" in alarm and ", base " in alarm and " sd (limit " in alarm
    assert (
        f"images/monitor/step-{step:08d}.png" in alarm and "found good is kept" in alarm
    ) or "there is no checkpoint" in alarm
    assert alarm.count("\n") == 0 and sum("ALARM" in line for line in said) == 1


def test_a_signal_still_stops_as_it_did(tmp_path):
    stop = StopRequest()
    with pytest.raises(Stopped):
        go(tmp_path, steps=9, stop_request=stop, after_step=lambda step, images, batch: step == 3 and stop.request())
    assert go(tmp_path, steps=9)[0].step == 9


def test_a_base_that_was_measured_otherwise_is_refused(tmp_path):
    go(tmp_path, steps=2)
    for changed in ({"samples": 2}, {"seeds": 3}, {"truths": [Truth()]}):
        with pytest.raises(UserMistake, match=f"measured with other {next(iter(changed))}.*monitor.every: 0"):
            go(tmp_path, steps=4, **changed)
    go(tmp_path, steps=4, threshold=5.0, look=1)


def test_what_cannot_be_told_is_left_out(tmp_path):
    class Silent(toy.Right):
        name = "silent"

        def score(self, images, prompts):
            return [Missing("asleep")] * len(prompts)

    class Moody(toy.Right):
        """Half of the answers never come."""

        name = "moody"

        def score(self, images, prompts):
            return [score if row % 2 else Missing("moody") for row, score in enumerate(super().score(images, prompts))]

    go(tmp_path, steps=2, truths=[Silent(), Moody()])
    record = lines(tmp_path)[-1]
    assert "truth/silent" not in record["statistics"] and "truth/silent" not in record["intervals"]
    assert record["intervals"]["truth/moody"]["n"] == 12
    assert not record["alarms"]
