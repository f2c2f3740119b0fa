"""The experiment runs from nothing to its result, goes on where it was, and keeps designs apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tastemaker.errors import UserMistake
from tastemaker.runtime.metrics import read_lines

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_runs_and_resumes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments.pointwise_vs_pairwise.__main__ import main, run
    from experiments.pointwise_vs_pairwise.design import QUICK

    few = {"t2i": 1, "edits": 1, "held_out_t2i": 2, "held_out_edits": 2, "held_out_pictures": 3, "pictures": 2}
    design = replace(
        QUICK, **few, naming_steps=1, start_steps=1, describing=1, comparing=1, steps=6, batch=4, seeds=1, severity=0.0
    )
    run(tmp_path, design, resamples=20)
    result = json.loads((tmp_path / "result.json").read_text())
    costs = [arm["costs"] for arm in result["arms"]]
    assert len(costs) == 2 and costs[0] == costs[1] and costs[0]["aesthetic"]["judgements"] == 12
    # 3 dimensions x 3 measures x (2 arms and their difference) x (pooled and 1 seed)
    assert len(result["rows"]) == 3 * 3 * 3 * 2
    assert Image.open(tmp_path / "result.png").width > 500

    logs = {name: read_lines(tmp_path / "seed-0" / name / "log.jsonl") for name in ("pairwise", "pointwise")}
    assert "alignment_pairs_right" in logs["pairwise"][0] and "alignment_abs_error" in logs["pointwise"][0]
    (tmp_path / "seed-0" / "pairwise" / "arm.json").unlink()  # as if it had stopped before it judged
    said: list[str] = []
    rows = run(tmp_path, design, say=said.append, resamples=20)
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["rows"] == result["rows"] and len(rows) == len(again["rows"])
    assert not any(text.startswith("seed 0, pointwise") for text in said)
    with pytest.raises(UserMistake, match=r"holds another design \(batch 4\)"):
        run(tmp_path, replace(design, batch=8))
    assert main([str(tmp_path / "bad"), "--batch", "3"]) == 2
