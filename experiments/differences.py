"""Differences between arms, paired by prompt: a row for each seed, and one (seed null) for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from tastemaker.evaluation.statistics import Estimate, paired_difference

BASE = "base"
Row = dict[str, Any]
Values = Sequence[Sequence[float] | np.ndarray] | np.ndarray
_FOUND = {field.name for field in fields(Estimate)}


def pooled_difference(after: Values, before: Values) -> Estimate:
    """Paired by prompt, each prompt's mean over the seeds (S, n): sure for other prompts, with the seeds as they are."""
    return paired_difference(np.mean(np.asarray(after, float), 0), np.mean(np.asarray(before, float), 0))


def by_seed(what: Mapping[str, Any], seeds: Sequence[int], after: Values, before: Values) -> list[Row]:
    """`after` less `before`, (S, n): the seeds one by one, then together."""
    pairs = [paired_difference(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(after, before, strict=True)]
    rows = [{**what, "seed": seed, **asdict(found)} for seed, found in zip(seeds, pairs, strict=True)]
    return [*rows, {**what, "seed": None, **asdict(pooled_difference(after, before))}]


def arms_less_base_and(
    what: Mapping[str, Any], found: Mapping[tuple[str, int], np.ndarray], base: np.ndarray, arms: Iterable[str], rival: str
) -> list[Row]:
    """Every arm less the base and less the arm `rival`; `found` holds (n,) for each arm and seed, `base` (n,).

    A seed that an arm or its rival did not finish is missing there.
    """
    rows: list[Row] = []
    for arm in arms:
        for other in (BASE, rival):
            seeds = [seed for one, seed in found if one == arm and (other == BASE or (rival, seed) in found)]
            if arm == other or not seeds:
                continue
            level = {**what, "arm": arm, "against": other, "base": float(np.nanmean(base))}
            before = [base if other == BASE else found[rival, seed] for seed in seeds]
            rows += by_seed(level, seeds, [found[arm, seed] for seed in seeds], before)
    return rows


def each_seed(pooled: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], form: Callable[[float], str]) -> list[str]:
    """The seeds' values of a pooled row: of those rows that say the same of what they are."""
    said = [key for key in pooled if key not in _FOUND and key != "seed"]
    return [form(row["value"]) for row in rows if row["seed"] is not None and all(row.get(k) == pooled[k] for k in said)]
