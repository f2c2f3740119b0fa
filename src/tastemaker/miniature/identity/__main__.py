"""`python -m tastemaker.miniature.identity FOLDER`: the identity embedder from nothing, or on from where it was."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from tastemaker.miniature.identity.train import Plan, build_identity


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tastemaker.miniature.identity", description=__doc__)
    parser.add_argument("folder", type=Path)
    for field in fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--threads", type=int, default=1)
    given = vars(parser.parse_args())
    folder = given.pop("folder")
    torch.set_num_threads(given.pop("threads"))
    print(build_identity(folder, Plan(**given), print))


if __name__ == "__main__":
    main()
