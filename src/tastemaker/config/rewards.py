"""Rewards and their parts in the composite, how long they are waited for, and the rules between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Protocol

from pydantic import Field

from tastemaker.config.base import Broken, Name, Positive, Seconds, Settings, Weight, nearest
from tastemaker.config.judges import AnyJudgeConfig, ChatJudgeConfig, FilePath, JudgeConfig


class GateConfig(Settings):
    """A condition on another reward; while it fails, the score of the reward that has this gate is capped."""

    reward: Name = Field(examples=["objects"])
    """The gating reward. It is asked wherever the gated one is, also with a weight of 0."""
    below: float = Field(examples=[1.0])
    """The gate fails when the gating reward's score, as its judge gave it, is below this."""
    cap: float = Field(examples=[0.5])
    """The most that the gated score can then be, whatever else holds; in units of the gated score."""
    categories: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The prompts it holds for, named as in categories; null is all."""


class RewardConfig(Settings):
    """One reward and its part in the composite."""

    name: Name = Field(examples=["alignment"])
    """What it is called; without a judge, which built-in reward."""
    judge: JudgeConfig | None = None
    """Who gives the score; null is the built-in reward of this name."""
    weight: Weight = 1.0
    """Its share for categories without weights of their own; these add up to 1. With 0 it is asked for other categories or by
    gates alone."""
    low: float = 0.0
    """The lowest score it can give."""
    high: float = 1.0
    """The highest score it can give."""
    floor: Annotated[float, Field(ge=0)] = 0.01
    """Its noise, in units of its score: a group's standard deviation counts as at least this, so near ties do not explode."""
    server_deadline: Seconds | None = None
    """Seconds after which a chat server gives up on an item, if you know; `deadlines.item` must be longer, or finished work is
    thrown away. A server of ours says so itself."""
    gates: tuple[GateConfig, ...] = ()
    """What has to hold first: while one of them fails, the score is capped; the lowest cap counts."""

    def broken_rules(self) -> Iterator[Broken]:
        """`low` is below `high`, and both are those of the judge's kind where it has a range. `floor` is below `high` - `low`.
        A gate's `below` lies above the gating reward's `low` and at most at its `high`, its `cap` from this reward's `low` to
        below its `high`. `server_deadline` is below `deadlines.item`.
        """
        if not self.low < self.high:
            yield Broken(("low", "high"), f"must be below high = {self.high:g}", "swap them or correct one")
        elif self.floor >= self.high - self.low:
            rule = f"must be below the range of the score, {self.high - self.low:g}"
            yield Broken(("floor", "low", "high"), rule, "give the standard deviation of repeated scores of one picture")
        if self.judge is not None and self.judge.scores is not None and (self.low, self.high) != self.judge.scores:
            low, high = self.judge.scores
            rule = f"a judge of kind {self.judge.kind} scores from {low:g} to {high:g}"
            yield Broken(("low", "high"), rule, f"set low to {low:g} and high to {high:g}")


class DeadlineConfig(Settings):
    """Seconds after which waiting for rewards ends. They nest: an item within its batch within the step."""

    item: Seconds = 60.0
    """Seconds for one picture, retries included. A server of ours has to judge a batch in less; one request to it, with its
    time in the server's queue, has the geometric mean of this and batch."""
    batch: Seconds = 300.0
    """Seconds for all pictures that were sent together; those for which a server of ours has no room come again until then."""
    step: Seconds = 1800.0
    """Seconds for all rewards of a training step, each chunk from when it was drawn; then the run stops, resumable."""

    def broken_rules(self) -> Iterator[Broken]:
        """`item` is below `batch`, and that is below `step`."""
        if self.item >= self.batch:
            yield Broken(("item", "batch"), f"must be below deadlines.batch = {self.batch:g}", "lower it or raise the batch's")
        if self.batch >= self.step:
            yield Broken(("batch", "step"), f"must be below deadlines.step = {self.step:g}", "lower it or raise the step's")


class CacheConfig(Settings):
    """Scores kept on the disk, so that a judge of a model is not asked the same question about the same picture twice."""

    folder: FilePath = Field(examples=["scores"])
    """Any number of runs, of any judges, may share it."""
    max_bytes: Positive = 2**30
    """Bytes, beyond which what was not used for longest is removed; a score takes 4096."""


class Judged(Protocol):
    """Settings that name rewards."""

    @property
    def rewards(self) -> tuple[RewardConfig, ...]: ...
    @property
    def categories(self) -> dict[str, dict[str, Weight]]: ...
    @property
    def deadlines(self) -> DeadlineConfig: ...
    @property
    def cache(self) -> CacheConfig | None: ...
    @property
    def judges(self) -> dict[str, AnyJudgeConfig | None]: ...


def reward_rules(config: Judged) -> Iterator[Broken]:
    """What does not hold between rewards, their weights by category and their gates."""
    yield from _weight_rules(config)
    yield from _category_rules(config)
    yield from _gate_rules(config)
    for row, reward in enumerate(config.rewards):
        if config.cache and isinstance(reward.judge, ChatJudgeConfig) and not reward.judge.revision:
            rule = "is all that tells one model behind a chat server from the next, so scores cannot be kept without it"
            yield Broken(
                (f"rewards.{row}.judge.revision", "cache"), rule, "name the weights in your own words, or remove cache"
            )


def _weight_rules(config: Judged) -> Iterator[Broken]:
    total = math.fsum(reward.weight for reward in config.rewards)
    if abs(total - 1) > 1e-6:
        keys = tuple(f"rewards.{row}.weight" for row in range(len(config.rewards)))
        yield Broken(keys, f"the weights must add up to 1, they add up to {total:g}", "change them")
    for name, count in Counter(reward.name for reward in config.rewards).items():
        if count > 1:
            rows = [row for row, reward in enumerate(config.rewards) if reward.name == name]
            keys = tuple(f"rewards.{row}.name" for row in rows[::-1])
            yield Broken(keys, f"{name!r} is listed {count} times, a reward counts once", "keep one and add their weights")
    for row, reward in enumerate(config.rewards):
        if reward.server_deadline is not None and config.deadlines.item <= reward.server_deadline:
            rule = f"must be above the server's own deadline of {reward.server_deadline:g} s (rewards.{row})"
            yield Broken(("deadlines.item", f"rewards.{row}.server_deadline"), rule, "raise it or lower the server's")
    yield from _idle_rewards(config)


def _idle_rewards(config: Judged) -> Iterator[Broken]:
    """A reward that no prompt and no gate asks was listed for nothing, most likely by a slip."""
    gating = {gate.reward for reward in config.rewards for gate in reward.gates}
    for row, reward in enumerate(config.rewards):
        weighed = any(weights.get(reward.name, 0) > 0 for weights in config.categories.values())
        if not (reward.weight > 0 or weighed or reward.name in gating):
            rule = "is the weight in every category, and no gate asks for it"
            yield Broken((f"rewards.{row}.weight", "rewards", "categories"), rule, "give it a weight or remove the reward")


def _category_rules(config: Judged) -> Iterator[Broken]:
    names = [reward.name for reward in config.rewards]
    for category, weights in config.categories.items():
        place = ("categories", category)
        for name in weights:
            if name not in names:
                yield Broken(((*place, name), "rewards"), "unknown reward", nearest(name, names))
        total = math.fsum(weights.values())
        if not weights:
            yield Broken((place,), "has no weights", "name at least one reward or remove the category")
        elif abs(total - 1) > 1e-6:
            yield Broken((place,), f"the weights must add up to 1, they add up to {total:g}", "change them")


def _gate_rules(config: Judged) -> Iterator[Broken]:
    by_name = {reward.name: reward for reward in config.rewards}
    for row, reward in enumerate(config.rewards):
        for place, gate in enumerate(reward.gates):
            key, gating = f"rewards.{row}.gates.{place}", by_name.get(gate.reward)
            if gating is None:
                yield Broken((f"{key}.reward", "rewards"), "unknown reward", nearest(gate.reward, by_name))
            elif gating is reward:
                yield Broken((f"{key}.reward", "rewards"), "a reward cannot be its own gate", "name another one")
            elif not gating.low < gate.below <= gating.high:
                rule = f"must be above {gating.low:g} and at most {gating.high:g}, the range of {gating.name}"
                yield Broken((f"{key}.below", "rewards"), rule, "else the gate never or always fails")
            if not reward.low <= gate.cap < reward.high:
                rule = f"must be at least {reward.low:g} and below {reward.high:g}, the range of {reward.name}"
                yield Broken((f"{key}.cap", f"rewards.{row}.low", f"rewards.{row}.high"), rule, "else it caps nothing")
