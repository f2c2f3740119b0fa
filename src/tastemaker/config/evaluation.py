"""What can be set for `tastemaker evaluate`: which models, on which prompts, sampled how, judged by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tastemaker.config.base import Broken, Count, Guidance, Name, Positive, Settings, Share, Weight, nearest
from tastemaker.config.judges import AnyJudgeConfig
from tastemaker.config.rewards import CacheConfig, DeadlineConfig, RewardConfig, reward_rules
from tastemaker.config.settings import FREE


class ModelConfig(Settings):
    """One model that is compared."""

    name: Name = Field(examples=["base"])
    """What the tables call it."""
    path: Annotated[str, Field(min_length=1)] = Field(examples=["miniature"])
    """A pipeline's folder, a run's folder, that of a LoRA or of a transformer, or the word miniature."""
    base: Annotated[str, Field(min_length=1)] | None = None
    """The pipeline of a LoRA or a transformer; of a run, where its base is now if it was moved."""
    step: Count | None = None
    """Of a run: the saved step; null is the newest."""
    live: bool = False
    """Of a run: the last weights instead of their average."""
    guidance: Annotated[tuple[Guidance, ...], Field(min_length=1)] | None = None
    """Scales for this model alone; null takes those of all, and 1 for a model with guidance inside."""
    against: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the models that this one is compared with; null takes `against` of all."""


class EvaluateConfig(Settings):
    """One comparison: every model draws the same prompts from the same noise."""

    name: Name = Field(examples=["comparison"])
    """The comparison's name, and its folder's."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the noise."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)] = Field(examples=[[{"name": "base", "path": "miniature"}]])
    """The first is the base that the others are compared with."""
    against: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the models that those listed after them are compared with; null is the first."""
    prompts: Annotated[str, Field(min_length=1)] = Field(examples=["held-out.jsonl"])
    """A JSONL file, or the word miniature for its held-out sets, whose truth the oracle knows."""
    tasks: Annotated[tuple[Literal["t2i", "edit"], ...], Field(min_length=1)] = ("t2i", "edit")
    """Prompts of other tasks are left out."""
    most: Positive | None = None
    """Prompts of each task; null is all. The first ones of a file, a balanced part of the miniature's."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Sampling steps, all deterministic."""
    guidance: Annotated[tuple[Guidance, ...], Field(min_length=1)] = (1.0,)
    """Scales of classifier-free guidance; 1 is none. The first is the one that other ways of sampling are compared with."""
    negative_prompt: str = ""
    """The words of the unconditional branch."""
    picture_side: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 64
    """Height and width of the pictures in pixels; 64 is the miniature's."""
    batch: Positive = 100
    """Pictures drawn and judged at once, and kept as one file; limits memory, and an interruption costs at most so many."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the model's forward passes; auto takes bf16 where the device has arithmetic for it."""
    threads: Positive | None = None
    """CPU threads; null takes the physical cores this process may use."""
    rewards: tuple[RewardConfig, ...] = ()
    """Who judges the pictures, as in a training's config; weights add up to 1."""
    categories: dict[str, dict[str, Weight]] = Field(default={}, examples=[{"portrait": {"alignment": 1.0}}])
    """Weights of their own for prompts of these categories, as in a training's config."""
    deadlines: DeadlineConfig = Field(default=DeadlineConfig(), json_schema_extra=FREE)
    missing_budget: Share = Field(default=0.05, json_schema_extra=FREE)
    """Share of the scores asked for that may be missing; beyond it the command fails, and asks for them again when repeated."""
    cache: CacheConfig | None = Field(default=None, json_schema_extra=FREE)
    """Where scores of judges in folders and behind servers are kept for other runs; null keeps none."""

    @property
    def judges(self) -> dict[str, AnyJudgeConfig | None]:
        """Who gives each reward, by the key of the reward, such as rewards.0."""
        return {f"rewards.{row}": reward.judge for row, reward in enumerate(self.rewards)}

    def broken_rules(self) -> Iterator[Broken]:
        """Models have names of their own; `against` names some of them. No scale of guidance is listed twice. A file of prompts
        needs `rewards`, which keep the rules of a training's: weights add up to 1, also in each of `categories`.
        """
        yield from self._model_rules()
        if self.rewards:
            yield from reward_rules(self)
        elif self.prompts != "miniature":
            rule = "a file of prompts has no truth to read, and no reward is listed to judge its pictures"
            yield Broken(("rewards", "prompts"), rule, "list rewards, or use prompts: miniature")

    def _model_rules(self) -> Iterator[Broken]:
        names = [model.name for model in self.models]
        for name, count in Counter(names).items():
            if count > 1:
                yield Broken((f"models.{names.index(name)}.name",), f"{name!r} names {count} models", "give each its own")
        listed = {"against": self.against or ()}
        listed |= {f"models.{place}.against": model.against or () for place, model in enumerate(self.models)}
        for key, found in listed.items():
            for place, name in enumerate(found):
                if name not in names:
                    yield Broken((f"{key}.{place}", "models"), "no model has this name", nearest(name, names))
        own = {f"models.{place}.guidance": model.guidance or () for place, model in enumerate(self.models)}
        for key, scales in {"guidance": self.guidance, **own}.items():
            if len(set(scales)) < len(scales):
                yield Broken((key,), "the same scale is listed twice", "remove one")
