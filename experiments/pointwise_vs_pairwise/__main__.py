"""`python -m experiments.pointwise_vs_pairwise FOLDER`: the whole experiment, or on from where it was; see the package."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from experiments.arms import claim
from experiments.pointwise_vs_pairwise.arms import Say, run_arm
from experiments.pointwise_vs_pairwise.comparison import Row, compare
from experiments.pointwise_vs_pairwise.design import QUICK, Design
from experiments.pointwise_vs_pairwise.judgements import read_pictures
from experiments.pointwise_vs_pairwise.report import as_json, chart, show
from tastemaker.errors import UserMistake
from tastemaker.miniature import task
from tastemaker.miniature.raters.collect import collect
from tastemaker.runtime import folder as disk
from tastemaker.runtime.device import set_threads


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.pointwise_vs_pairwise", description=__doc__)
    parser.add_argument("folder", type=Path)
    for field in fields(Design):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=f"default {field.default}")
    parser.add_argument("--quick", action="store_true", help="so little that it takes minutes at most: shows that it runs")
    parser.add_argument("--threads", type=int, help="CPU threads, and processes that draw pictures (default: physical cores)")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    folder, quick, threads = given.pop("folder"), given.pop("quick"), given.pop("threads", None)
    try:
        design = replace(QUICK if quick else Design(), **given)
        rows = run(folder, design, set_threads(threads), print)
    except UserMistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    console = Console()
    show(rows, design, console if console.is_terminal else Console(width=160))
    print(f"written: {folder / 'result.json'}, {folder / 'result.png'}")
    return 0


def run(folder: Path, design: Design, threads: int = 1, say: Say = lambda text: None, *, resamples: int = 2000) -> list[Row]:
    """Whatever `folder` lacks of the design, and the result. Raises UserMistake where it holds another design."""
    claim(folder, design)
    with task.reading_processes(threads) as pool:
        training, held_out = (
            read_pictures(collect(folder / name, sitting, None, pool, say))
            for name, sitting in (("training", design.training), ("held-out", design.held_out))
        )
    arms = [
        run_arm(folder, name, seed, design, training, held_out, say) for seed in range(design.seeds) for name in design.arms
    ]
    say("comparing")
    rows = compare(arms, held_out, resamples=resamples)
    disk.write_bytes_atomic(folder / "result.json", as_json(rows, arms, design).encode())
    disk.write_bytes_atomic(folder / "result.png", chart(rows))
    return rows


if __name__ == "__main__":
    sys.exit(main())
