"""The benchmarks run, and every way they time computes what it is compared with. No speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def threads():
    """The command sets torch's threads for its process, which here is that of all tests."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.slow
def test_all_ways_agree(tmp_path, threads, capsys):
    from benchmarks.__main__ import main

    place = tmp_path / "rows.json"
    arguments = ["--quick", "--repeats", "1", "--device", "cpu", "--threads", str(threads), "--json", str(place)]
    assert main(arguments) == 0
    found = json.loads(place.read_text())
    assert found["repeats"] == 1 and found["machine"]["torch"] == torch.__version__
    rows = [row for row in found["rows"] if row["difference"] is not None]
    assert all(row["agrees"] and len(row["ratios"]) == 1 and row["ratios"][0] > 0 for row in rows)
    titles = {row["contest"].partition(",")[0] for row in rows}
    ways = {row["way"] for row in rows}
    assert titles == {"rollout", "update", "step with a judge as slow as drawing"}
    assert {"without shared prefix", "diffusers pipeline, its own cache", "plain way"} <= ways
    assert "plain way" in capsys.readouterr().out


def test_a_fast_wrong_way_is_not_timed(threads):
    from benchmarks.timing import Contest, Way, difference, measure

    right, runs = {"answer": torch.tensor([1.0, 2.0])}, []

    def wrong():
        runs.append("wrong")
        return {"answer": torch.tensor([1.0, 2.1])}

    contest = Contest("sums", "sums/s", 1, Way("slow", lambda: right), [Way("fast", wrong), Way("fair", lambda: dict(right))])
    ours, fast, fair = measure(contest, 3, torch.device("cpu"))
    assert runs == ["wrong"] and not fast.agrees and fast.ratios == [] and fast.speedup is None
    assert fair.agrees and len(fair.ratios) == 3 and ours.difference is None
    assert difference({}, right) == float("inf")
    assert difference({"answer": right["answer"], "more": right["answer"]}, right, "answer") == 0
    far = {"answer": torch.tensor([3.0, 4.0])}
    assert difference({"answer": torch.tensor([3.0, 3.0])}, far) == 0.25
    assert difference({"answer": torch.tensor([3.0, 3.0])}, far, of_all=True) == pytest.approx(0.2)
