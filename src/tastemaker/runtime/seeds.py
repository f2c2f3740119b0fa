"""Keyed random numbers: what a sample gets depends on its key alone (run seed, purpose, step, prompt id, sample index).

So no result depends on the order of arrival, on what else is in the batch, on the device, or on the number of processes.

The noise is numpy's Philox with a 128-bit key. torch's own CPU generator uses only the low 32 bits of its seed: among 77,000
seeded samples two would be expected to be the same.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

Key = int | str


def digest(*keys: Key) -> bytes:
    """16 bytes that depend on every key and on where one ends: ("a", "bc") differs from ("ab", "c"), 1 from "1"."""
    hasher = hashlib.blake2b(digest_size=16)
    for key in keys:
        text = b"s" + key.encode() if isinstance(key, str) else b"i%d" % operator.index(key)
        hasher.update(b"%d:" % len(text))
        hasher.update(text)
    return hasher.digest()


def seed(*keys: Key) -> int:
    """A number in [0, 2**63), for libraries that want one."""
    return int.from_bytes(digest(*keys)[:8], "little") >> 1


def generator(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator; on the CPU it tells only 2**32 keys apart, so prefer `noise` for noise."""
    return torch.Generator(device).manual_seed(seed(*keys))


@contextmanager
def keyed(device: torch.device, *keys: Key) -> Iterator[None]:
    """Inside, torch's own random numbers depend on the keys alone; outside nothing is changed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed(*keys))
        yield


def random(*keys: Key) -> np.random.Generator:
    """A numpy generator, for shuffles and choices."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(*keys), "little")))


def noise(shape: Sequence[int], *keys: Key) -> Tensor:
    """Standard normal float32 on the CPU, of `shape`.

    >>> torch.equal(noise((2, 3), 0, "rollout", 12, "p1", 7), noise((2, 3), 0, "rollout", 12, "p1", 7))
    True
    """
    return noise_rows(shape, [keys])[0]


def noise_rows(shape: Sequence[int], keys: Sequence[Sequence[Key]]) -> Tensor:
    """(len(keys), *shape): row i is `noise(shape, *keys[i])`, whatever the other rows are."""
    rows = np.empty((len(keys), math.prod(shape)), dtype=np.float32)
    philox = np.random.Philox(key=0)
    normal = np.random.Generator(philox).standard_normal
    start = philox.state
    for row, key in zip(rows, keys, strict=True):
        start["state"]["key"][:] = np.frombuffer(digest(*key), dtype="<u8")
        philox.state = start
        normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows).reshape(len(keys), *shape)
