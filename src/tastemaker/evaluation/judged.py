"""Judges asked about held-out pictures. What they said stays on the disk beside the pictures; what they could not say does not.

So an interruption, or a judge that failed, costs only what is still missing when the same command runs again, and at most the
`AT_ONCE` pictures that it fell among.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tastemaker.evaluation.drawn import Drawn
from tastemaker.evaluation.scores import ALL_JUDGES
from tastemaker.flow.advantage import composite as weighted
from tastemaker.rewards.composite import Composite
from tastemaker.rewards.reward import fingerprints
from tastemaker.runtime import folder as disk
from tastemaker.types import Prompt, Scores

AT_ONCE = 32
"""Pictures that judges are shown together, whose scores are then kept: a server gets as many requests at a time."""
NOT_ASKED = "not asked"
"""In the place of a score that nothing will ever ask for; null is one that is missing."""


def judge_kept(drawn: Drawn, composite: Composite, progress: Callable[[int, int], None] = lambda done, total: None) -> Scores:
    """Scores (n, R) of all pictures, before gates; a score that did not arrive is asked for again by the next run."""
    key = _key(composite)
    values: list[Tensor] = []
    missing: dict[tuple[int, str], str] = {}
    for file, places, pictures in drawn.batches():
        prompts = drawn.prompts[places]
        found = _judged(_path(file, key), composite, pictures, prompts)
        values.append(found.values_BR)
        missing |= {(places.start + row, name): reason for (row, name), reason in found.missing.items()}
        progress(places.start + len(prompts), len(drawn.prompts))
    return Scores(composite.names, torch.cat(values), missing)


def kept_scores(drawn: Drawn, composite: Composite) -> Scores:
    """As `judge_kept`, of what is on the disk alone: nobody is asked, and what a judge has not said yet is missing."""
    key, counts = _key(composite), [len(part) for part in torch.arange(len(drawn.prompts)).split(drawn.batch)]
    shapes = [(count, len(composite.names)) for count in counts]
    read = [_read(_path(file, key), shape) for file, shape in zip(drawn.files, shapes, strict=True)]
    values_BR, settled_BR = (torch.cat(parts) for parts in zip(*read, strict=True))
    absent = (values_BR.isnan() & composite.asked_BR(drawn.prompts) & ~settled_BR).nonzero().tolist()
    return Scores(composite.names, values_BR, {(row, composite.names[column]): "not judged yet" for row, column in absent})


@dataclass(frozen=True, eq=False)
class Judged:
    """Gated scores (n,) by reward and where each is missing; the weighted sum of their range-normalised values, in [0, 1]."""

    scores: Mapping[str, np.ndarray]
    missing: Mapping[str, np.ndarray]
    total: np.ndarray
    noise: np.ndarray
    """(n,) standard deviation that the judges' own noise gives to the difference of two pictures' totals."""


def judged(composite: Composite, scores: Scores, prompts: Sequence[Prompt]) -> Judged:
    """What the judges say after gates. With several judges their sum is one of the scores, as ALL_JUDGES."""
    gated = composite.gated(scores, prompts)
    weights_BR, ranges_R2 = composite.counting_BR(gated, prompts), torch.tensor([(r.low, r.high) for r in composite.rewards])
    values = {name: gated.values_BR[:, column].double().numpy() for column, name in enumerate(gated.names)}
    lost = {name: np.array([(row, name) in gated.missing for row in range(len(prompts))]) for name in gated.names}
    total = weighted(gated.values_BR, weights_BR, ranges_R2).numpy()
    if len(values) > 1:
        values[ALL_JUDGES], lost[ALL_JUDGES] = total, np.isnan(total) & np.any(list(lost.values()), axis=0)
    floors_R = torch.tensor([r.floor / (r.high - r.low) for r in composite.rewards], dtype=torch.float64)
    return Judged(values, lost, total, (2 * (weights_BR * floors_R).square().sum(1)).sqrt().numpy())


def _judged(path: Path, composite: Composite, pictures: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
    known, settled_BR = _read(path, (len(prompts), len(composite.names)))
    asked_BR = composite.asked_BR(prompts)
    missing: dict[tuple[int, str], str] = {}
    # Always the same pictures together, wherever an interruption was: beside others a local judge rounds otherwise.
    for some in torch.arange(len(prompts)).split(AT_ONCE):
        rows = [row for row in some.tolist() if (known[row].isnan() & asked_BR[row] & ~settled_BR[row]).any()]
        if not rows:
            continue
        images = torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2).float() / 255
        found = composite.score(images, [prompts[row] for row in rows])
        known[rows] = found.values_BR.double()
        absent = {(rows[row], name): reason for (row, name), reason in found.missing.items()}
        for row in rows:
            lost = torch.tensor([(row, name) in absent for name in composite.names])
            settled_BR[row] = known[row].isnan() & ~lost
        missing |= absent
        _write(path, known, settled_BR)
    return Scores(composite.names, known, missing)


def _path(file: Path, key: str) -> Path:
    return file.with_suffix(f".scores-{key}.json")


def _write(path: Path, known: Tensor, settled_BR: Tensor) -> None:
    kept = [
        [value if not math.isnan(value) else NOT_ASKED if settled else None for value, settled in zip(*row, strict=True)]
        for row in zip(known.tolist(), settled_BR.tolist(), strict=True)
    ]
    disk.write_text_atomic(path, json.dumps(kept) + "\n")


def _read(path: Path, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What was kept, NaN elsewhere, and bool: where a score was not asked. A file that is absent or broken holds nothing."""
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        found = torch.tensor([[math.nan if v in (None, NOT_ASKED) else v for v in row] for row in rows], dtype=torch.float64)
        settled = torch.tensor([[v == NOT_ASKED for v in row] for row in rows])
    except (OSError, ValueError, TypeError):
        found = settled = torch.empty(0)
    if found.shape != shape:
        return torch.full(shape, math.nan, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    return found, settled


def _key(composite: Composite) -> str:
    """Changes whenever a score could be another one, or another one could be asked for."""
    rewards = [(reward.name, reward.low, reward.high) for reward in composite.rewards]
    gates = [{**asdict(gate), "categories": sorted(gate.categories or ())} for gate in composite.gates]
    plan = (composite.weights, dict(composite.categories), gates, fingerprints(composite.rewards), version("tastemaker"))
    return hashlib.blake2b(json.dumps([rewards, *plan], sort_keys=True).encode(), digest_size=8).hexdigest()
