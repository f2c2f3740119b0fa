"""One process, or several that train as one: who they are, and the few things they tell each other.

`torchrun` and `accelerate launch` say in the environment which of how many a process is. Each has the whole model. They meet
where all must know what each found out (`gather`), where gradients become one (`add_up`), and once at the start (`of_first`).

Small things travel as JSON through gloo, whatever the device: nothing is unpickled, and a process that ended is noticed at
once. Gradients travel through NCCL on CUDA. Left out: sharded weights (FSDP2). Who
starts them is torchrun, or `together`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tastemaker.errors import ServiceFailed, UserMistake

PATIENCE = 3600.0
"""Seconds that one process waits for another beyond what judges may take: it may be opening a model, or saving."""
BUCKET = 2**24
"""About how many gradient elements are added up at once: enough for speed, few beside a model."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many; this class is that of a process alone, which has nothing to tell."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The JSON value of every process, in order; all have to ask. None leaves before all have come."""
        return [value]

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes every gradient the sum over processes; one that nobody has stays None."""

    def of_first(self, groups: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Mapping[str, Tensor]]:
        """The tensors of the first process; on the CPU where they came from there."""
        return groups


ALONE = Ranks()


@contextmanager
def connected(device: torch.device, judging: float = 0.0) -> Iterator[Ranks]:
    """This process among those that were started with it, or alone. `judging` is how many seconds a step's scores may take.

    Raises UserMistake for an environment that says too little, ServiceFailed when the others do not come.
    """
    if num_processes() == 1:
        yield ALONE
        return
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise UserMistake(
            f"WORLD_SIZE is {num_processes()} but {' and '.join(absent)} not set; start with torchrun, or unset it"
        )
    if device.type == "cuda":
        if here()[1] > torch.cuda.device_count():
            raise UserMistake(f"{here()[1]} processes for {torch.cuda.device_count()} GPUs here; start one for each at most")
        torch.cuda.set_device(device)
    with _told_plainly():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=judging + PATIENCE))
    try:
        yield _Connected(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class _Connected(Ranks):
    """One of several."""

    def gather(self, value: Any) -> list[Any]:
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with _told_plainly():
            lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
            dist.all_gather(lengths, torch.tensor([len(data)]))
            longest = max(int(length) for length in lengths)
            found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
            dist.all_gather(found, torch.cat([data, data.new_zeros(longest - len(data))]))
        return [json.loads(bytes(one[: int(n)].tolist())) for one, n in zip(found, lengths, strict=True)]

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        has = self.gather([parameter.grad is not None for parameter in parameters])
        gradients = []
        for parameter, somewhere in zip(parameters, map(any, zip(*has, strict=True)), strict=True):
            if somewhere:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten().float() for gradient in bucket])
            with _told_plainly():
                dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def of_first(self, groups: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Mapping[str, Tensor]]:
        shapes = {group: {name: _kind(value) for name, value in tensors.items()} for group, tensors in groups.items()}
        shapes = self.gather(shapes if self.first else None)[0]
        return {
            group: {name: self._of_first(groups[group][name] if self.first else None, *kind) for name, kind in kinds.items()}
            for group, kinds in shapes.items()
        }

    def _of_first(self, value: Tensor | None, dtype: str, shape: Sequence[int]) -> Tensor:
        found = torch.empty(shape, dtype=getattr(torch, dtype)) if value is None else value.detach().cpu().contiguous()
        with _told_plainly():
            dist.broadcast(found.view(-1).view(torch.uint8), 0)  # bytes: gloo does not know every dtype
        return found if value is None else value


def num_processes() -> int:
    """How many were started together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def here() -> tuple[int, int]:
    """Which of how many processes on this machine this is."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def require_one(command: str) -> None:
    """Raises UserMistake where several processes would do the same work on the same files."""
    if num_processes() > 1:
        raise UserMistake(
            f"{command} is the work of one process and {num_processes()} were started; start it without torchrun "
            "(train and distill can be spread)"
        )


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Whatever is wrong with the connection: what is known here, and where to look for what is not."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ServiceFailed(
            f"the processes of this run lost each other: one ended or hangs, look for its own message; the same command "
            f"resumes the run ({reason})"
        ) from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one device, in order, until a bucket is full."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (sum(one.numel() for one in bucket) + tensor.numel() > BUCKET or tensor.device != bucket[0].device):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _kind(value: Tensor) -> tuple[str, list[int]]:
    return str(value.dtype).removeprefix("torch."), list(value.shape)
