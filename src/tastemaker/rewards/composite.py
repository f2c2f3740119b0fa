"""Which reward is asked about which picture, how much it counts there, and what must hold before it counts in full.

    prompts -> asked_BR -> score -> Scores -> gated -> Scores, with counting_BR -> advantage

A category has its own weights, and so may a task, or a category of one task; the others take the default ones. A reward that
neither counts for a prompt nor gates one that does is *not asked* about its pictures: the score is NaN without a reason, which
costs nothing and is not missing. A reward may say the same of a prompt itself (`NotAsked`); it has no weight there then.

Gates make layers: while the gating reward's score is under a threshold, the gated score is capped, whatever else holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tastemaker.rewards.background import in_thread
from tastemaker.rewards.reward import Reward, score_all
from tastemaker.types import Prompt, Scores


@dataclass(frozen=True)
class Gate:
    """`reward` is at most `cap` while the score of `by` is less than `below`; each number is in the units of its own reward.

    Without the score of `by` it cannot be told whether the cap holds, so the gated score is missing, for that reason; where
    `by` says that it was not asked there is no cap.
    `categories` are those whose prompts it is for, as `called` names them; None is all.
    """

    reward: str
    by: str
    below: float
    cap: float
    categories: frozenset[str] | None = None


def called(prompt: Prompt) -> tuple[str, str, str]:
    """What weights and gates may be stated for, the most exact first: edit/portrait, edit, portrait.

    The task stands before the category, since it is what decides which rewards make sense.
    """
    return f"{prompt.task}/{prompt.category}", prompt.task, prompt.category


@dataclass(frozen=True)
class Composite:
    """Several rewards as one: their weights by category or task, in the order of `rewards`, and their gates.

    Raises ValueError where weights are negative or do not sum to 1, a name occurs twice, or a gate names an unknown reward.

    >>> Composite((alignment, portrait), weights=(1.0, 0.0), categories={"portrait": (0.4, 0.6)})
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]
    """Of prompts of which `categories` has nothing."""
    categories: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"rewards {self.names}: each name may occur once")
        for weights in (self.weights, *self.categories.values()):
            if len(weights) != len(self.rewards) or min(weights) < 0 or abs(math.fsum(weights) - 1) > 1e-5:
                raise ValueError(f"weights {weights}: expected {len(self.rewards)} of at least 0 that sum to 1")
        for gate in self.gates:
            if gate.reward == gate.by or not {gate.reward, gate.by} <= set(self.names):
                raise ValueError(f"{gate}: needs two different rewards out of {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards' names, in the order of the axis R."""
        return tuple(reward.name for reward in self.rewards)

    def weights_BR(self, prompts: Sequence[Prompt]) -> Tensor:
        """(B, R) float64: for each prompt the weights of the first name it is `called` by, or the default ones."""
        rows = [
            next((self.categories[name] for name in called(prompt) if name in self.categories), self.weights)
            for prompt in prompts
        ]
        return torch.tensor(rows, dtype=torch.float64).view(len(prompts), len(self.rewards))

    def counting_BR(self, scores: Scores, prompts: Sequence[Prompt]) -> Tensor:
        """(B, R) as `weights_BR`, but 0 for a reward that said it was not asked, whose weight the others share in proportion.

        Where all said so the weights stay, and the sample has no score.
        """
        weights_BR = self.weights_BR(prompts)
        absent_BR = scores.values_BR.isnan()
        for row, name in scores.missing:
            absent_BR[row, self.names.index(name)] = False
        left_BR = torch.where(absent_BR, 0.0, weights_BR)
        total_B1 = left_BR.sum(1, keepdim=True)
        changed_B1 = (absent_BR & (weights_BR > 0)).any(1, keepdim=True) & (total_B1 > 0)
        return torch.where(changed_B1, left_BR / total_B1, weights_BR)

    def asked_BR(self, prompts: Sequence[Prompt]) -> Tensor:
        """(B, R) bool: the rewards with a weight above 0, and those that gate one of these."""
        asked_BR = self.weights_BR(prompts) > 0
        for gate in self.gates:
            asked_BR[:, self.names.index(gate.by)] |= self._holds_B(gate, prompts)
        return asked_BR

    def _holds_B(self, gate: Gate, prompts: Sequence[Prompt]) -> Tensor:
        """(B,) bool: where the gated reward counts and the gate is meant for the prompt's category."""
        meant = [gate.categories is None or not gate.categories.isdisjoint(called(prompt)) for prompt in prompts]
        meant_B = torch.tensor(meant).bool()
        return meant_B & (self.weights_BR(prompts)[:, self.names.index(gate.reward)] > 0)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """What the judges say, before gates: as `score_all`, but each reward sees only the pictures it is asked about.

        `missing` has a reason for every score that was asked for and is not there; NaN without a reason was not asked. Remote
        rewards are asked at the same time.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts; give one prompt for each picture")
        values_BR = torch.full((len(prompts), len(self.rewards)), math.nan)
        missing: dict[tuple[int, str], str] = {}
        asked_BR = self.asked_BR(prompts)
        rows_R = [asked_B.nonzero().flatten().tolist() for asked_B in asked_BR.T]
        for column, (rows, found) in enumerate(zip(rows_R, self._found(images, prompts, rows_R), strict=True)):
            values_BR[rows, column] = found.values_BR[:, 0]
            missing |= {(rows[row], name): reason for (row, name), reason in found.missing.items()}
        return Scores(self.names, values_BR, missing)

    def _found(self, images: Tensor, prompts: Sequence[Prompt], rows_R: Sequence[Sequence[int]]) -> list[Scores]:
        """What each reward says of its rows: remote ones in a thread each, the others meanwhile here, one after the other.

        An error is raised when all threads have ended, which they do by the deadlines of their judges. Ctrl-C waits for none.
        """

        def ask(column: int) -> Scores:
            rows = rows_R[column]
            return score_all([self.rewards[column]], images[rows], [prompts[row] for row in rows])

        remote = [column for column, one in enumerate(self.rewards) if rows_R[column] and getattr(one, "remote", False)]
        threads = {column: in_thread(f"asking {self.names[column]}", ask, column) for column in remote}
        try:
            here = {column: ask(column) for column in range(len(self.rewards)) if column not in threads}
        except Exception:
            wait(threads.values())
            raise
        wait(threads.values())
        return [threads[column].result() if column in threads else here[column] for column in range(len(self.rewards))]

    def gated(self, scores: Scores, prompts: Sequence[Prompt]) -> Scores:
        """The scores (B, R) under their gates. Every gate reads the judge's own score, so neither order nor rings matter.

        Several failing gates of one reward: the lowest cap holds. A score that is below the cap stays what it is.
        """
        values_BR, missing = scores.values_BR.clone(), dict(scores.missing)
        for gate in self.gates:
            target_B, by_B = values_BR[:, self.names.index(gate.reward)], scores.values_BR[:, self.names.index(gate.by)]
            holds_B = self._holds_B(gate, prompts)
            lost_B = torch.tensor([(row, gate.by) in scores.missing for row in range(len(prompts))]).bool()
            fails_B, unknown_B = holds_B & (by_B < gate.below), holds_B & lost_B & ~target_B.isnan()
            target_B[fails_B] = target_B[fails_B].clamp(max=gate.cap)
            target_B[unknown_B] = math.nan
            for row in unknown_B.nonzero().flatten().tolist():
                missing[row, gate.reward] = f"its gate {gate.by} is missing: {scores.missing[row, gate.by]}"
        return Scores(scores.names, values_BR, missing)

    def capped(self, scores: Scores, gated: Scores) -> dict[str, float]:
        """For each reward with a gate, the share of its scores that a cap lowered."""
        lowered_R = (gated.values_BR < scores.values_BR).sum(0).tolist()
        present_R = (~scores.values_BR.isnan()).sum(0).tolist()
        targets = {gate.reward for gate in self.gates}
        rows = zip(self.names, lowered_R, present_R, strict=True)
        return {name: lowered / present for name, lowered, present in rows if name in targets and present}

    def by_category(self, scores: Scores, prompts: Sequence[Prompt], *, with_task: bool = False) -> dict[str, float]:
        """ "NAME/CATEGORY": the mean of each reward over the pictures of each category; none where no such score is there.

        `with_task` for "NAME/TASK/CATEGORY": of several tasks each has categories of its own.
        """
        means: dict[str, float] = {}
        kinds = [f"{prompt.task}/{prompt.category}" if with_task else prompt.category for prompt in prompts]
        for category in sorted(set(kinds)):
            rows = [row for row, kind in enumerate(kinds) if kind == category]
            for name, mean in zip(self.names, scores.values_BR[rows].nanmean(0).tolist(), strict=True):
                if not math.isnan(mean):
                    means[f"{name}/{category}"] = mean
        return means


def missing_share(scores: Scores) -> float:
    """Share of the scores asked for that are missing; 0 where nothing was asked."""
    asked = int((~scores.values_BR.isnan()).sum()) + len(scores.missing)
    return len(scores.missing) / max(asked, 1)


def commonest_reasons(scores: Scores, count: int = 3) -> str:
    """Why scores are missing: reward, reason and how often, the most frequent first."""
    found = Counter(f"{name}: {reason}" for (_, name), reason in scores.missing.items())
    return "; ".join(f"{words} ({times} times)" for words, times in found.most_common(count))
