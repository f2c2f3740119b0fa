"""What the processes of one training have to do together, beside adding up gradients; one process alone passes through it.

They begin alike, and each learns from its share of a step's groups. Raw scores meet before anything is compared, and metrics
before they are written. The first process writes the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tastemaker.config import TrainConfig
from tastemaker.config.distillation import DistillConfig
from tastemaker.errors import UserMistake
from tastemaker.runtime import changes, seeds
from tastemaker.runtime.distributed import Ranks
from tastemaker.runtime.guard import NanGuard
from tastemaker.training.state import PolicyState
from tastemaker.types import Prompt, Scores

LARGEST = "max_ratio"
"""The metric of an update that is a maximum over samples; all others are means."""


def check_share(prompts_per_step: int, num_processes: int) -> None:
    """Raises UserMistake where a step is too small to be shared."""
    if num_processes > prompts_per_step:
        raise UserMistake(
            f"rollout.prompts: {prompts_per_step} a step is too few for {num_processes} processes, which take whole groups; "
            f"raise it, or start at most {prompts_per_step}"
        )


def check_alike(
    ranks: Ranks,
    config: TrainConfig | DistillConfig,
    prompts: Sequence[Prompt],
    judges: Mapping[str, str],
    hardware: Mapping[str, str],
) -> None:
    """Raises UserMistake where processes were started with different things."""
    if ranks.count == 1:
        return
    stated = [[prompt.id, prompt.text, prompt.category, prompt.task] for prompt in prompts]
    mine = {
        "settings": config.model_dump(mode="json"),
        "packages": changes.environment({}, {}, {})["packages"],
        "hardware": dict(hardware),
        "judges": dict(judges),
        "prompts": seeds.digest(json.dumps(stated)).hex(),
    }
    first, *others = ranks.gather(mine)
    for number, other in enumerate(others, start=1):
        if found := changes.differences(first, other):
            listed = "\n".join(f"  {change}" for change in found)
            raise UserMistake(f"process {number} was started with other things than process 0:\n{listed}\nmake them the same")


def begin_alike(ranks: Ranks, state: PolicyState, guard: NanGuard) -> None:
    """Gives every process the state of the first, which alone reads checkpoints."""
    if ranks.count == 1:
        return
    plain = ranks.gather({**state.plain(), "guard": guard.state()})[0]
    tensors = ranks.of_first(state.tensors())
    if not ranks.first:
        state.restore(tensors, plain)
        guard.load_state(plain["guard"])


def of_step(ranks: Ranks, scores: Scores, places: Sequence[int], group_size: int) -> Scores:
    """The scores of a whole step, in its order, from those of every share; `places` are those of its prompts in the step."""
    if ranks.count == 1:
        return scores
    missing = [(row, name, reason) for (row, name), reason in scores.missing.items()]
    shares = ranks.gather({"places": list(places), "values": scores.values_BR.tolist(), "missing": missing})
    values: dict[int, list[float]] = {}
    reasons: dict[tuple[int, str], str] = {}
    for share in shares:
        rows = [place * group_size + sample for place in share["places"] for sample in range(group_size)]
        values |= dict(zip(rows, share["values"], strict=True))
        reasons |= {(rows[row], name): reason for row, name, reason in share["missing"]}
    in_order = [values[row] for row in range(sum(len(share["values"]) for share in shares))]
    return Scores(scores.names, torch.tensor(in_order, dtype=scores.values_BR.dtype), dict(sorted(reasons.items())))


def over_ranks(ranks: Ranks, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of a mini-batch from the summands of every process, some of which may have none of its samples."""
    if ranks.count == 1:
        return totals
    shares = ranks.gather({name: float(value) for name, value in totals.items()})
    names = dict.fromkeys(name for share in shares for name in share)
    found = {name: [share[name] for share in shares if name in share] for name in names}
    return {name: torch.tensor(max(values) if name == LARGEST else sum(values)) for name, values in found.items()}


class Elsewhere:
    """The run of a process that is not the first: the first one writes it."""

    def log(self, step: int, metrics: Mapping[str, Any], stream: str = "metrics") -> None:
        pass

    def checkpoint(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        pass

    def incident(self, record: Mapping[str, Any]) -> None:
        pass

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
