"""NaN and inf are counted, written down with the samples they came from, and never reach the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tastemaker.errors import Diverged


@dataclass(frozen=True)
class Verdict:
    """Whether an update may be made; `culprits` maps each bad value to the samples (or entries) it is bad for."""

    ok: bool
    culprits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class NanGuard:
    """Checks values before an update; `limit` bad updates in a row raise Diverged.

    `record` receives each incident (Run.incident). Several checks of one update (pictures, loss, gradient norm) count as one.
    The weights are safe only if the caller skips the update whenever the verdict is not ok. `gather` gives what every process
    found (Ranks.gather), so that all come to one verdict.
    """

    def __init__(
        self,
        record: Callable[[Mapping[str, Any]], None],
        limit: int = 3,
        gather: Callable[[Any], list[Any]] = lambda found: [found],
    ) -> None:
        self.skipped = 0
        self._record = record
        self._limit = limit
        self._gather = gather
        self._in_a_row = 0
        self._last_bad: int | None = None

    def check(self, update: int, values: Mapping[str, float | Tensor], sample_ids: Sequence[str] = ()) -> Verdict:
        """The verdict on update number `update`. A tensor whose first axis is as long as `sample_ids` is judged per sample.

        One synchronisation with the device, however many values there are.
        """
        found = self._gather({name: _who(values[name], sample_ids) for name in _not_finite(values)})
        culprits: dict[str, tuple[str, ...]] = {}
        for name, who in (pair for one in found for pair in one.items()):
            culprits[name] = tuple(dict.fromkeys([*culprits.get(name, ()), *who]))
        if not culprits:
            return Verdict(True)
        self._count(update)
        listed = {name: list(who[:100]) for name, who in culprits.items()}
        self._record({"kind": "not finite", "update": update, "in_a_row": self._in_a_row, "culprits": listed})
        if self._in_a_row >= self._limit:
            what = "; ".join(f"{name} of {', '.join(who[:5]) or 'the whole batch'}" for name, who in culprits.items())
            raise Diverged(
                f"update {update}: NaN or inf {self._in_a_row} times in a row, last in {what}; the weights hold the last "
                "finite update, see incidents.jsonl, then lower the learning rate or remove the samples"
            )
        return Verdict(False, culprits)

    def refused(self, update: int) -> bool:
        """Whether a check of update number `update`, the last one that was checked, found something."""
        return update == self._last_bad

    def state(self) -> dict[str, Any]:
        """For the checkpoint, so that a resumed run counts on."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "last_bad": self._last_bad}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The counterpart of `state`."""
        self.skipped, self._in_a_row, self._last_bad = state["skipped"], state["in_a_row"], state["last_bad"]

    def _count(self, update: int) -> None:
        if update == self._last_bad:
            return
        self.skipped += 1
        self._in_a_row = self._in_a_row + 1 if self._last_bad == update - 1 else 1
        self._last_bad = update


def _not_finite(values: Mapping[str, float | Tensor]) -> list[str]:
    tensors = {name: torch.as_tensor(value) for name, value in values.items()}
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        by_device.setdefault(tensor.device, []).append(name)
    bad: set[str] = set()
    for names in by_device.values():
        finite = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        bad |= {name for name, fine in zip(names, finite, strict=True) if not fine}
    return [name for name in values if name in bad]


def _who(value: float | Tensor, sample_ids: Sequence[str]) -> tuple[str, ...]:
    tensor = torch.as_tensor(value)
    if tensor.ndim == 0 or tensor.shape[0] != len(sample_ids):
        return ()
    rows = (~tensor.isfinite()).reshape(len(sample_ids), -1).any(dim=1).nonzero().flatten().tolist()
    return tuple(sample_ids[row] for row in rows)
