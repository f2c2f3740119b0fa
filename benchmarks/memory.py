"""`python -m benchmarks.memory`: what a forward pass of the miniature keeps for the way back, and what checkpointing costs.

Three trained steps a picture, in float32, one group of 8 pictures for each prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.workload import open_model
from tastemaker.models.adapter import Adapter
from tastemaker.types import Condition

SIDE, GROUP, STEPS, ROUNDS = 64, 8, 3, 7


def main() -> int:
    torch.set_num_threads(1)
    adapter, _ = open_model(torch.device("cpu"))
    adapter.transformer.requires_grad_(True)
    table = Table("pictures", "kept", "with checkpointing", f"times as long, median of {ROUNDS} pairs (least to most)")
    for pictures in (32, 8, 1):
        condition = adapter.encode(["three red circles"] * max(1, pictures // GROUP), height=SIDE, width=SIDE)
        ways = [partial(forward_backward, adapter, condition, pictures, checkpointing) for checkpointing in (False, True)]
        kept = [kept_bytes(adapter, way) / 2**20 for way in ways]
        pairs = [[seconds(way) for way in ways] for _ in range(ROUNDS)]
        ratios = sorted(slow / fast for fast, slow in pairs)
        shown = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(str(pictures), *(f"{size:.1f} MiB" for size in kept), shown)
    Console().print(table)
    return 0


def kept_bytes(adapter: Adapter, way: Callable[[], None]) -> int:
    """Of all tensors that are saved for the backward pass, the weights left out, each storage once."""
    kept: dict[int, int] = {}

    def saved(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        way()
    weights = {parameter.untyped_storage().data_ptr() for parameter in adapter.transformer.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def seconds(way: Callable[[], None]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def forward_backward(adapter: Adapter, condition: Condition, pictures: int, checkpointing: bool) -> None:
    transformer = adapter.transformer
    (transformer.enable_gradient_checkpointing if checkpointing else transformer.disable_gradient_checkpointing)()
    rows = torch.arange(len(condition)).repeat_interleave(min(pictures, GROUP) * STEPS)
    x = torch.randn(len(rows), *adapter.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    adapter.velocity(x, torch.full((len(rows),), 0.7), adapter.prefix(condition).select(rows)).square().mean().backward()
    transformer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    raise SystemExit(main())
