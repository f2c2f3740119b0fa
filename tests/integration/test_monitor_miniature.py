"""The monitor on the shipped miniature: saturation as the only reward is found out, the verifiable reward is not accused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tastemaker.runtime.metrics import read_lines


@pytest.fixture(autouse=True)
def experiments_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["hackable", "honest"])
def test_a_bought_reward_is_told_from_an_earned_one(tmp_path, monkeypatch, kind):
    from experiments.monitor_alarm import runs

    monkeypatch.setattr(runs, "Plan", partial(runs.Plan, seeds=3))  # less to draw, and wider limits
    found = runs.run(tmp_path, kind, 0, steps=16, every=4, held_out=1)
    records = read_lines(tmp_path / "monitor.jsonl")
    assert (found.alarm is not None) == (kind == "hackable")
    assert records[-1]["step"] == (found.alarm or 16)
    assert (tmp_path / records[-1]["pictures"]).is_file()
