"""`python -m benchmarks`: images per second in rollout and samples per second in update, with and without each lever."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.plan import contests
from benchmarks.table import as_json, machine, show
from benchmarks.timing import Row, measure
from benchmarks.workload import QUICK, Size, open_model
from tastemaker.runtime.device import pick_device, set_threads

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if two ways that should compute the same do not; a missed speed target is only shown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="interleaved rounds of each comparison (default 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the physical cores)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine; CPU only")
    parser.add_argument("--only", default="", metavar="WORDS", help="only comparisons whose title has these words")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the repeated blocks; takes minutes")
    parser.add_argument(
        "--quick", action="store_true", help="few pictures, steps and comparisons: shows that ways agree, not speed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    device = torch.device(options.device) if options.device else pick_device()
    if device.type != "cpu" and options.clock == "cpu":
        parser.error("--clock cpu does not see the work of an accelerator; leave it out")
    set_threads(options.threads)
    size = QUICK if options.quick else Size()
    adapter, weights = open_model(device)
    rows: list[Row] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        waits = options.clock == "wall"
        chosen = {"quick": options.quick, "compiled": options.compile, "waits": waits}
        for contest in contests(adapter, size, Path(folder), **chosen, note=notes.append):
            if options.only in contest.title:
                print(contest.title, "...", file=sys.stderr)
                rows += measure(contest, options.repeats, device, CLOCKS[options.clock])
    if options.quick:
        rows = [replace(row, target=None) for row in rows]
        notes.append("--quick: so little work that the speeds mean nothing")
    about = {**machine(device, weights), "clock": options.clock}
    show(rows, about, size, options.repeats, notes, wide_console())
    if options.json:
        options.json.write_text(as_json(rows, about, size, options.repeats, notes), encoding="utf-8")
    return 0 if all(row.agrees for row in rows) else 1


def wide_console() -> Console:
    """A pipe or a file has no width of its own, and a folded table is hard to read."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


if __name__ == "__main__":
    sys.exit(main())
