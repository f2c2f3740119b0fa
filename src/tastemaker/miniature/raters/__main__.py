"""`python -m tastemaker.miniature.raters FOLDER`: has the simulated raters rate pictures; see collect.py."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from tastemaker.miniature.raters.collect import Sitting, collect


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tastemaker.miniature.raters", description=__doc__)
    parser.add_argument("folder", type=Path)
    for field in fields(Sitting):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("--processes", type=int, default=1, help="pictures are read by so many processes")
    given = vars(parser.parse_args())
    folder, processes = given.pop("folder"), given.pop("processes")
    sitting = Sitting(**given)
    adapter = None
    from tastemaker.miniature import task

    if sitting.base:
        import torch

        from tastemaker.models.adapter import load

        adapter = load(task.WEIGHTS, device="cpu", dtype=torch.float32)
    with task.reading_processes(processes) as pool:
        collect(folder, sitting, adapter, pool, print)


if __name__ == "__main__":
    main()
