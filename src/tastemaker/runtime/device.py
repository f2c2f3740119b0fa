"""Device, precision and threads: what this machine is good at."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tastemaker.errors import UserMistake
from tastemaker.runtime.distributed import here

DEVICES = r"(cpu|mps|cuda(:\d+)?)"
Precision = Literal["auto", "fp32", "bf16"]


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU. Of several processes on a machine each takes a device of its own."""
    if torch.cuda.is_available():
        return torch.device("cuda", here()[0])
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def named_device(name: str) -> torch.device:
    """Of a name such as cpu, mps, cuda or cuda:1. Raises UserMistake for another, and for one that is not in this machine."""
    if not re.fullmatch(DEVICES, name):
        raise UserMistake(f"device {name!r} is not known; write cpu, mps, cuda or cuda:1")
    kind, _, number = name.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    if int(number or 0) >= count:
        found = f"{count} of its kind" if count else "none of its kind"
        raise UserMistake(f"device {name}: torch finds {found} here; choose another, or leave it out")
    return torch.device(name)


def pick_precision(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The dtype of forward passes. `auto` takes bf16 where the device has arithmetic for it.

    On a CPU that means AMX or AVX512-BF16: without either bf16 was measured 2.4 times slower than float32.
    """
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    kind = torch.device(device).type
    fast = {"cuda": _cuda_has_bf16, "cpu": cpu_multiplies_bf16}.get(kind, lambda: False)
    return torch.bfloat16 if fast() else torch.float32


def resolved(device: torch.device | str, dtype: torch.dtype) -> dict[str, str]:
    """What a run writes down of the two, and compares when it is resumed: {"device": "cuda", "dtype": "bfloat16"}."""
    return {"device": torch.device(device).type, "dtype": str(dtype).removeprefix("torch.")}


def waiting(value: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in memory that a GPU can read from directly if there is one."""
    kept = value.detach().to("cpu", copy=True)
    return kept.pin_memory() if torch.cuda.is_available() else kept


def _cuda_has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_multiplies_bf16(cpuinfo: Path | str = "/proc/cpuinfo") -> bool:
    """Whether the processor has instructions for products of bf16: AMX's tiles, or AVX-512's dot products."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any({"amx_bf16", "avx512_bf16"} & set(line.split()) for line in text.splitlines() if line.startswith("flags"))


def attention_with_gradients(weights: torch.Tensor) -> AbstractContextManager[None]:
    """The way of attention that is fast forward and backward together, for a model with such weights.

    On a CPU in bf16 that is plain matrix products: the backward pass of fused attention took 43% of forward and backward of the
    miniature, which together are 1.7 times as fast without it on one thread. Forward alone, and in float32, the fused one is as
    fast or faster.
    """
    plain = weights.device.type == "cpu" and weights.dtype == torch.bfloat16
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def set_threads(count: int | None) -> int:
    """Sets torch's CPU threads, by default to this process's part of the physical cores it may use; returns the number."""
    count = count or max(1, physical_cores() // here()[1])
    torch.set_num_threads(count)
    return count


def physical_cores(system: Path | str = "/sys") -> int:
    """Physical cores in this process's CPU affinity, no more than its control group's quota allows."""
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(Path(system), processor) for processor in processors}
    return max(1, min(len(cores), _quota(Path(system))))


def _siblings(system: Path, processor: int) -> str:
    file = system / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    try:
        return file.read_text().strip()
    except OSError:
        return str(processor)


def _quota(system: Path) -> int:
    try:
        quota, period = (system / "fs/cgroup/cpu.max").read_text().split()
        return 10**6 if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 10**6
