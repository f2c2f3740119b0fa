"""`tastemaker demo --quick`: stopped by Ctrl-C it leaves with 75, and the same command goes on to the whole report."""

from __future__ import annotations

import json
import signal

import pytest

from processes import Started, command
from tastemaker.runtime.metrics import read_lines

MODELS = ["base", "t2i", "edit", "mixed", "student"]


def start(folder):
    return Started(command, "demo", "--quick", "--threads", "1", "--processes", "1", "--folder", str(folder))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_and_resumed(tmp_path):
    folder = tmp_path / "demo"
    first = start(folder)
    shown = []
    for line in first:
        shown.append(line)
        if line.startswith("step 1/2 "):
            first.send_signal(signal.SIGINT)
    assert first.wait() == 75, "".join(shown)
    assert any("first pictures" in line for line in shown)

    second = start(folder)
    shown = "".join(second)
    assert second.wait() == 0, shown
    assert "curated: finished, unchanged" in shown.replace("\n", " ")
    assert [line["step"] for line in read_lines(folder / "t2i" / "run" / "metrics.jsonl")] == [1, 2]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "mean nothing" in page
    assert all(f"<h3>{stage}</h3>" in page for stage in ("t2i", "edit", "mixed", "student"))
    assert all(f"<small>{kind}</small>" in page for kind in ("recolour", "hair", "season", "text", "compound", "portrait"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert {"wall_seconds", "rows", "differences", "versions", "seed"} <= summary.keys()
    assert {"model", "task", "guidance", "forwards_per_image", "n", "accuracy", "low", "high"} <= summary["rows"][0].keys()
    assert {"pair", "task", "n", "difference", "low", "high"} <= summary["differences"][0].keys()
    assert [*dict.fromkeys(row["model"] for row in summary["rows"])] == MODELS
    assert {row["task"] for row in summary["rows"]} == {"t2i", "edit"}
    assert {(*d["pair"],) for d in summary["differences"] if d["pair"][0] == "student"} == {("student", m) for m in MODELS[:4]}
    stages = {path.parent.name: json.loads(path.read_text())["seconds"] for path in folder.glob("*/stage.json")}
    before = sum(seconds for name, seconds in stages.items() if name != "compared")
    assert before < summary["wall_seconds"] < float((folder / "seconds.txt").read_text())

    third = start(folder)
    shown = "".join(third)
    assert third.wait() == 0 and shown.count("finished, unchanged") == 6 and "opening" not in shown
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
