"""What a piece of work will take, before anything is loaded: from headers of weight files and one short test.

    seconds = forwards x 2 x parameters x tokens / (rate of large matrix products x share of it that a model reaches)

Orders of magnitude, not promises: judges that work elsewhere, text encoding, decoding and waiting for a disk are not in it.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch

from tastemaker.errors import Corrupt

REACHED = 0.4
"""Share of the matrix rate; 0.35 to 0.5 was measured for small transformers on a CPU, attention and all else included."""
BACKWARD = 2.0
"""A backward pass in units of a forward one."""
BESIDE_TRAINED = 3
"""Float32 numbers beside each trained weight: its gradient and the optimiser's two means."""
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the matrices whose product is timed: a smaller product ends on a GPU before the next one has been asked for."""


@dataclass(frozen=True)
class Estimate:
    """Of one stage; None where nothing can be told."""

    seconds: float | None = None
    memory: int | None = None
    """Bytes on the device, activations not counted."""
    disk: int | None = None
    """Bytes that it leaves at most."""


def seconds_of(forwards: float, parameters: int, tokens: int, rate: float) -> float:
    """Of `forwards` passes of one picture of `tokens` tokens through a model of so many parameters; `rate` in flop a second."""
    return forwards * 2 * parameters * tokens / (rate * REACHED)


def memory_of_training(trained: int, model: int, *, averages: int, copies: int, bytes_each: int = 4) -> int:
    """Bytes of weights: `model` and copies of it in the precision of forwards, `bytes_each` a weight; of what is trained, in
    float32, gradient, optimiser and `averages`, and where the model is in less than that, the weights themselves."""
    in_float32 = BESIDE_TRAINED + averages + (bytes_each < 4)
    return bytes_each * model * (1 + copies) + 4 * trained * in_float32


def num_parameters(folder: Path) -> int:
    """Of a folder of safetensors, from the headers alone. Raises Corrupt for a file that has none."""
    return sum(prod(shape) for path in sorted(folder.glob("*.safetensors")) for shape in _shapes(path))


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@cache
def matrix_rate(device: str, threads: int, dtype: torch.dtype = torch.float32) -> float:
    """Flop a second of products of square matrices, the best of a few; takes about a tenth of a second."""
    side = SIDE.get(device, SIDE["cpu"])
    a = torch.rand(side, side, device=device).to(dtype)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def _shapes(path: Path) -> Iterable[list[int]]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        return [value["shape"] for name, value in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path}: not a safetensors file ({error!r})") from error
