"""Which contests a run of the benchmarks holds, on what this machine can do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median

import torch

from benchmarks import sampling, scoring, updating
from benchmarks.timing import Contest
from benchmarks.workload import Size, editing, in_dtype, of_one_length, text_to_image
from tastemaker.models.lora import with_transformer
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.runtime.device import pick_precision


def contests(
    adapter: QwenImage21Adapter,
    size: Size,
    folder: Path,
    *,
    quick: bool,
    compiled: bool,
    waits: bool,
    note: Callable[[str], None],
) -> Iterator[Contest]:
    """Contests in the order of the table; `note` is told what was left out and why. `folder` takes source pictures.

    `quick` leaves out what other contests show already, with other prompts. `waits` is whether the clock sees waiting.
    """
    texts, edits = text_to_image(adapter, size), editing(adapter, size, folder / "one", num_sources=1)
    yield sampling.rollout_contest(texts)
    if not quick:
        yield sampling.prefix_contest(of_one_length(adapter, size))
    yield sampling.rollout_contest(edits)
    if not quick:
        yield sampling.rollout_contest(editing(adapter, size, folder / "two", num_sources=2))
    yield updating.update_contest(texts)
    if not quick:
        yield updating.update_contest(edits)
    yield updating.silence_contest(texts)
    if waits:
        step = scoring.scored_step(adapter, size, size.prompts if quick else scoring.GROUPS)
        yield scoring.scoring_contest(step)
        if step.hidden:
            groups = len(step.workload.prompts)
            note(f"scoring: {median(step.hidden):.1%} of the judge's time was hidden behind drawing, over {groups} groups")
    else:
        note("not measured: scoring in the background, whose judge waits, which processor time does not see")
    device = texts.device
    if pick_precision("auto", device) == torch.bfloat16:
        yield sampling.precision_contest(texts, in_dtype(adapter, torch.bfloat16))
    else:
        note(f"not measured: bf16, for which this {device.type} has no fast arithmetic")
    if compiled and (device.type == "cuda" or shutil.which("g++")):
        fast = _compiled(adapter)
        yield sampling.compile_contest(texts, fast)
        yield updating.compile_contest(texts, fast)
    else:
        note("not measured: torch.compile of the repeated blocks" + (", no C++ compiler" if compiled else " (--compile)"))


def _compiled(adapter: QwenImage21Adapter) -> QwenImage21Adapter:
    """A copy with compiled blocks. Prefix and target, both branches, with and without gradient are one block to the compiler,
    more variants than it makes by default before it falls back to the uncompiled block."""
    torch._dynamo.config.recompile_limit = 64
    fast = with_transformer(adapter, deepcopy(adapter.transformer))
    fast.transformer.compile_repeated_blocks()  # type: ignore[operator]
    return fast
