"""The rows as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Row
from benchmarks.workload import Size

COLUMNS = {"work": "left", "rate": "right", "speedup": "right", "n": "right", "difference": "right", "target": "right"}


def machine(device: torch.device, weights: str) -> dict[str, Any]:
    """What the numbers depend on and the rows do not say."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}: {_processor()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "weights": weights,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(rows: Sequence[Row], about: dict[str, Any], size: Size, repeats: int, notes: Sequence[str], console: Console) -> None:
    console.print(", ".join(f"{key} {value}" for key, value in about.items()), highlight=False)
    console.print(
        f"{size.prompts} prompts x {size.group} pictures, {size.steps} steps ({size.trained} of them trained), guidance "
        f"{size.guidance:g}; float32 unless a line says otherwise; n = {repeats} interleaved rounds",
        highlight=False,
    )
    caption = "speedup: how many times as fast as this way tastemaker is, median of paired rounds (least to most)"
    table = Table(caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in COLUMNS.items():
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for title, lines in groupby(rows, lambda row: (row.contest, row.unit)):
        table.add_row(f"[bold]{title[0]}[/]", title[1])
        for row in lines:
            table.add_row(*_cells(row))
        table.add_section()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _cells(row: Row) -> tuple[str, ...]:
    name, rate = f"  {row.way}", f"{row.rate:.1f}"
    if row.difference is None:
        return name, rate
    if not row.agrees:
        return name, "not timed", "", "", f"[bold red]{row.difference:.0e} > {row.tolerance:.0e}[/]"
    speedup, difference = row.speedup, f"{row.difference:.0e}"
    if speedup is None:
        return name, rate, "", "0", difference
    spread = f"{speedup:.2f} ({min(row.ratios):.2f}-{max(row.ratios):.2f})"
    met = "" if row.target is None else f"{row.target:g} {'met' if speedup >= row.target else '[bold red]missed[/]'}"
    return name, rate, spread, str(len(row.ratios)), difference, met


def as_json(rows: Sequence[Row], about: dict[str, Any], size: Size, repeats: int, notes: Sequence[str]) -> str:
    lines = [{**asdict(row), "speedup": row.speedup, "agrees": row.agrees} for row in rows]
    whole = {"machine": about, "size": asdict(size), "repeats": repeats, "notes": list(notes), "rows": lines}
    return json.dumps(whole, indent=1) + "\n"
