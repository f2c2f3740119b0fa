"""`python -m benchmarks.oracle`: how well the miniature's oracle reads, on all held-out prompts, and how fast.

Drawings of the world are read as they are, blurred, noisy and after the VAE, and held against prompts wrong in one fact.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from benchmarks.workload import open_model
from tastemaker.evaluation.statistics import Estimate, proportion
from tastemaker.miniature import oracle, task
from tastemaker.miniature.builder.card import through_vae
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.mistakes import one_fact_off
from tastemaker.miniature.world.renderer import render
from tastemaker.runtime.device import physical_cores
from tastemaker.types import Prompt

SEED = 0
BLUR, NOISE = 0.8, 8.0
"""Pixels and levels of 255, one standard deviation."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__)
    parser.add_argument("--count", type=int, metavar="N", help="the first N held-out prompts (default: all)")
    parser.add_argument("--processes", type=int, default=physical_cores(), metavar="N", help="default: the physical cores")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    prompts = task.held_out_prompts(options.count)
    table = Table("what", "n", "value", "bar")
    for what, estimate, bar in measured(prompts):
        table.add_row(what, str(estimate.n), f"{estimate.value:.2%} ({estimate.low:.2%} to {estimate.high:.2%})", bar)
    rate = f"{speed(prompts, options.processes):.0f}"
    table.add_row(f"pictures a second, {options.processes} processes", str(len(prompts)), rate, "at least 300 on two cores")
    Console().print(table)
    return 0


@torch.no_grad()
def measured(prompts: Sequence[Prompt]) -> list[tuple[str, Estimate, str]]:
    rng = np.random.default_rng(SEED)
    descriptions = [task.described(prompt.truth) for prompt in prompts]
    drawn = np.stack([render(description, sample_layout(description, rng)) for description in descriptions])
    adapter, _ = open_model(torch.device("cpu"))
    read = {
        "as drawn": (drawn, "at least 99%"),
        f"blurred, {BLUR} px": (np.stack([blurred(picture) for picture in drawn]), "at least 97%"),
        f"noisy, {NOISE:.0f} of 255": (noisy(drawn, rng), "at least 97%"),
        "after the VAE": (through_vae(adapter.pipeline.vae.float(), drawn), "at least 97%"),
    }
    rows, readings = [], {}
    for what, (pictures, bar) in read.items():
        readings[what] = task.readings(pictures, prompts)
        right = [fact.verdict for reading in readings[what] for fact in reading.facts]
        rows.append((f"facts read right, {what}", proportion(np.array(right)), bar))
    for what in list(read)[1:]:
        same = [a.exact == b.exact for a, b in zip(readings["as drawn"], readings[what], strict=True)]
        rows.append((f"verdict on the picture the same, {what}", proportion(np.array(same)), ""))
    wrong = [
        oracle.read(picture, other).exact
        for picture, description in zip(drawn, descriptions, strict=True)
        for other in one_fact_off(description, rng)
    ]
    return [*rows, ("prompts wrong in one fact that are accepted", proportion(np.array(wrong)), "under 1%")]


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.round(ndimage.gaussian_filter(picture.astype(float), (BLUR, BLUR, 0))).astype(np.uint8)


def noisy(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.round(pictures + rng.normal(0, NOISE, pictures.shape)), 0, 255).astype(np.uint8)


def speed(prompts: Sequence[Prompt], processes: int) -> float:
    """Pictures a second by so many processes, once they are warm."""
    rng = np.random.default_rng(SEED)
    pictures = np.stack([render(d, sample_layout(d, rng)) for d in (task.described(prompt.truth) for prompt in prompts)])
    with task.reading_processes(processes) as pool:
        task.readings(pictures, prompts, pool)
        began = time.perf_counter()
        task.readings(pictures, prompts, pool)
        return len(prompts) / (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
