"""`python -m tastemaker.miniature.judge FOLDER`: the miniature judge from nothing, or on from where it was; see build.py."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from tastemaker.miniature import task
from tastemaker.miniature.judge.build import HELD_OUT, build_judge
from tastemaker.miniature.judge.train import Plan
from tastemaker.miniature.raters.collect import Sitting


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tastemaker.miniature.judge", description=__doc__)
    parser.add_argument("folder", type=Path)
    for field in fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    for name in ("t2i", "edits", "pictures", "base"):
        value = getattr(Sitting(), name)
        parser.add_argument(f"--{name}", type=type(value), default=value, help="of the sitting that it learns from")
    parser.add_argument(
        "--threads", type=int, default=1, help="processes that train and that read pictures, threads that measure"
    )
    given = vars(parser.parse_args())
    folder, threads = given.pop("folder"), given.pop("threads")
    torch.set_num_threads(threads)
    sitting = Sitting(**{name: given.pop(name) for name in ("t2i", "edits", "pictures", "base")})
    adapter = None
    if sitting.base or HELD_OUT.base:
        from tastemaker.models.adapter import load

        adapter = load(task.WEIGHTS, device="cpu", dtype=torch.float32)
    with task.reading_processes(threads) as pool:
        print(build_judge(folder, Plan(**given), sitting, adapter=adapter, pool=pool, processes=threads, say=print))


if __name__ == "__main__":
    main()
