"""What can be set, with the default of each, and the rules between settings.

A group is one section of the YAML file. Where a method has variants (algorithm, policy) the section is a union chosen by one
word in it, so that settings which mean nothing for the chosen variant cannot be written down. A new algorithm is one more
variant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from tastemaker.config.base import Broken, Count, Guidance, Name, Positive, Settings, Share, Weight
from tastemaker.config.judges import AnyJudgeConfig
from tastemaker.config.monitor import MonitorConfig
from tastemaker.config.rewards import CacheConfig, DeadlineConfig, RewardConfig, reward_rules

FREE: JsonDict = {"free_on_resume": True}
"""Marks settings and groups that change no weight, so that a resumed run may have other values."""
LENGTH: JsonDict = {"free_on_resume": "optimiser.decay_from"}
"""Marks how long a training is: free too, where this other setting does not make the learning rate depend on it."""


class RolloutConfig(Settings):
    """How pictures are sampled for training."""

    prompts: Annotated[int, Field(ge=1, le=1_000_000)] = 24
    """Prompts of one training step, over all processes."""
    group_size: Annotated[int, Field(ge=2, le=4096)] = 8
    """Pictures of one prompt; they are compared with each other, so at least two."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 10
    """Sampling steps N from noise to picture."""
    guidance: Guidance = 3.0
    """Scale of classifier-free guidance; 1 is none."""
    unguided_every: Positive | None = None
    """Sample each so many-th training step without guidance, so that the model gets better in both ways of use; null samples
    all steps with it. Such a step costs half the forwards."""
    guidance_rescale: bool | None = None
    """Rescale the guided velocity to the norm of the conditional one; null does what the model's own pipeline does."""
    negative_prompt: str = ""
    """The words of the unconditional branch."""
    transition: Literal["cps", "flow_sde"] = "cps"
    """Which stochastic step is taken inside the window."""
    eta: Annotated[float, Field(gt=0, le=2)] = 0.7
    """How much of the noise is fresh in a stochastic step; for cps at most 1."""
    window_start: Count = 0
    """First stochastic (and trained) step; 0 is the noisiest."""
    window_size: Positive = 3
    """Number of stochastic (and trained) steps; all others are deterministic."""
    picture_side: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 64
    """Height and width of the pictures in pixels; 64 is the miniature's."""
    max_batch: Positive = 256
    """Most pictures in one forward pass; limits memory and changes no result."""
    chunks: Positive = 1
    """Chunks, of whole groups, in which a step's pictures are drawn: while one is drawn, those before it are judged. Noise and
    order stay what they are, pictures but for rounding. Text to image, and edits of each number and shape of source pictures,
    are chunks of their own, so there may be more."""

    def broken_rules(self) -> Iterator[Broken]:
        """`chunks` is at most `prompts`; `eta` is at most 1 for cps; `max_batch` is a multiple of `group_size`, unless all of a
        step, `prompts` x `group_size`, fits into it.
        """
        if self.chunks > self.prompts:
            rule = f"must be at most prompts = {self.prompts}, since a chunk holds whole groups"
            yield Broken(("chunks", "prompts"), rule, f"set it to at most {self.prompts}")
        if self.transition == "cps" and self.eta > 1:
            rule = "must be at most 1 for the cps transition"
            yield Broken(("eta", "transition"), rule, "lower it or use transition: flow_sde")
        if self.prompts * self.group_size > self.max_batch and self.max_batch % self.group_size:
            below = max(self.max_batch // self.group_size, 1) * self.group_size
            rule = f"must hold whole groups of {self.group_size}"
            yield Broken(("max_batch", "group_size", "prompts"), rule, f"set it to {below}")


class GroupConfig(Settings):
    """What the algorithms share that compare the samples of a prompt with each other."""

    updates_per_rollout: Positive = 1
    """Optimiser steps on one rollout: its groups are dealt out into so many mini-batches, each used once."""
    guidance_mode: Literal["hybrid", "both", "none", "conditional"] = "hybrid"
    """Which policy is trained when sampling is guided: hybrid keeps the guidance offset of the rollout's weights fixed; both
    guides old and new; none samples without guidance; conditional leaves guidance out (biased, for comparison)."""
    velocity_kl: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the squared distance to the reference's velocity; 0 is off, and keeps no reference."""
    advantage_clip: Annotated[float, Field(gt=0)] = 5.0
    """Advantages are cut to ± this."""
    min_range: Annotated[float, Field(ge=0)] = 0.0
    """A group whose best and worst composite differ by no more than this gives no signal."""


class GRPOConfig(GroupConfig):
    """Group-relative policy optimisation: the clipped surrogate on the log-probabilities of the stochastic steps."""

    name: Literal["grpo"] = "grpo"
    """Chooses this algorithm."""
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """The ratio counts within 1 ± this; null is 1e-4, and 4e-4 with ratio_norm, whose ratios and their rounding are larger. It
    has no effect with updates_per_rollout 1: in the first mini-batch of a rollout the ratio is 1. These are the miniature's:
    for one change of the velocity the ratio's spread falls as 1 / sqrt(D), D being the latent's elements (16 times less at
    1024 pixels), so choose it by the later mini-batches of a run with updates_per_rollout of 2 or more (docs/running.md)."""
    ratio_norm: bool = False
    """Normalise the log ratio of each step by its standard deviation."""

    @model_validator(mode="before")
    @classmethod
    def _clip_range_of_the_ratio(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("clip_range") is not None:
            return given
        return {**given, "clip_range": 4e-4 if given.get("ratio_norm") is True else 1e-4}


class OldPolicyConfig(Settings):
    """An old policy that lags behind the trained one: after step i it keeps min(rise * i, decay) of itself."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The most of itself that it keeps in a step."""
    rise: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """By how much more of itself it keeps from step to step, until it is that."""


class NFTConfig(GroupConfig):
    """DiffusionNFT: good samples pull the velocity on the forward process, bad ones push it. The rollout is a plain ODE."""

    name: Literal["nft"] = "nft"
    """Chooses this algorithm."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far the positive and the negative policy are from the old one, beta of Eq. 5."""
    points: Positive = 3
    """States of the forward process on which a sample is learnt from."""
    sigma_low: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Least noise of such a state."""
    sigma_high: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Most noise of such a state."""
    old_policy: OldPolicyConfig | None = None
    """Draw pictures with, and learn against, an average of the past weights; null takes the present ones. {} has the values of
    the paper."""

    def broken_rules(self) -> Iterator[Broken]:
        """`sigma_low` is below `sigma_high`."""
        if self.sigma_low >= self.sigma_high:
            rule = f"must be below sigma_high = {self.sigma_high:g}"
            yield Broken(("sigma_low", "sigma_high"), rule, "lower it or raise sigma_high")


def _grpo_unless_named(algorithm: Any) -> Any:
    return {"name": "grpo", **algorithm} if isinstance(algorithm, Mapping) and "name" not in algorithm else algorithm


AlgorithmConfig = Annotated[GRPOConfig | NFTConfig, Field(discriminator="name"), BeforeValidator(_grpo_unless_named)]


class FullPolicy(Settings):
    """Train every weight of the transformer."""

    kind: Literal["full"] = "full"
    """Chooses this policy."""


class LoraPolicy(Settings):
    """Train low-rank additions to some linear layers."""

    kind: Literal["lora"] = "lora"
    """Chooses this policy."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] = 64
    """The addition is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the linear layers, as their ends; null takes the model family's own: attention and MLP, of both streams where it
    has two."""


PolicyConfig = Annotated[FullPolicy | LoraPolicy, Field(discriminator="kind")]


class OptimiserConfig(Settings):
    """AdamW and what surrounds it."""

    learning_rate: Annotated[float, Field(ge=1e-8, le=1e-2)] = 8e-5
    """Rate of AdamW. The default is a cautious start for full-parameter training, not a measured optimum."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the two running means."""
    epsilon: Annotated[float, Field(gt=0, lt=1e-2)] = 1e-8
    """Added to the root of the second mean."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    warmup_steps: Count = 0
    """Updates over which the learning rate rises linearly from 0."""
    decay_from: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps after which the learning rate falls linearly towards 0; null keeps it. 0.6 is the last two fifths."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an average of the weights with this decay; null keeps none."""
    ema_ramp: Annotated[float, Field(ge=2, le=1000)] = 10.0
    """Until `ema_decay` limits it, the average is 1 / ema_ramp of the updates so far old: after n updates it keeps (1 + n) /
    (ema_ramp + n) of itself."""
    micro_batch: Positive | None = None
    """Pictures in one backward pass, each with all of its trained steps; null takes all of a step at once. Limits memory."""
    gradient_checkpointing: bool = False
    """Compute each block again on the way back instead of keeping what it computed: less memory, more time (docs/scale.md)."""


ListName = Annotated[str, Field(min_length=1)]
Lists = Annotated[
    Annotated[ListName, Tag("one")] | Annotated[tuple[ListName, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda given: "several" if isinstance(given, list | tuple) else "one"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""Chosen by what is given, so that a mistake is told by the rules of one of the two."""


class DataConfig(Settings):
    """What is trained on."""

    prompts: Lists = Field(examples=["prompts.jsonl"])
    """A JSONL file of prompts, or one of the words miniature, miniature-edits and miniature-mix; or several of these, as
    [drawings.jsonl, edits.jsonl]."""
    most: Positive | None = None
    """Use no more than so many prompts of each task, the first ones; null uses all."""
    edit_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of edits among the prompts of each step; null takes all prompts as they come."""
    held_out: Annotated[str, Field(min_length=1)] | None = None
    """A JSONL file of prompts for evaluation. None of them may be trained on: prompts of the same id or text (and source
    pictures) are refused."""
    skip_bad: Count = 0
    """Most bad rows of each file that are skipped (and counted) before reading stops with an error."""

    def broken_rules(self) -> Iterator[Broken]:
        """No list is named twice."""
        for name, count in Counter(self.lists).items():
            if count > 1:
                yield Broken(("prompts",), f"{name!r} is named {count} times", "a list counts once, remove the others")

    @property
    def lists(self) -> tuple[str, ...]:
        """What `prompts` names, one or several."""
        return (self.prompts,) if isinstance(self.prompts, str) else self.prompts


class CheckpointConfig(Settings):
    """When the run is saved."""

    every: Positive = 20
    """Steps between two saves; the most work that a crash can cost."""
    keep: Positive = 3
    """Saves that are kept; older ones are removed."""


class BudgetConfig(Settings):
    """When training ends."""

    max_steps: Positive = Field(default=100, json_schema_extra=LENGTH)
    """Training steps in all, those before a resumption included. With optimiser.decay_from another number is another learning
    rate, and a resumed run may have it only if it is allowed."""
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(default=None, json_schema_extra=FREE)
    """Minutes of this process; the run is then saved, stops with exit code 75, and the same command goes on."""


class LoopConfig(Settings):
    """What every run of the training loop states, whatever it learns from."""

    name: Name = Field(examples=["first-run"])
    """The run's name, and its folder's."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All randomness follows from this number."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the model's forward passes; auto takes bf16 where the device has arithmetic for it."""
    threads: Positive | None = None
    """CPU threads of each process; null takes its part of the physical cores it may use."""
    processes: Positive | Literal["auto"] = Field(default=1, json_schema_extra=FREE)
    """Processes of this machine that share each step's work; auto is one with a GPU, and on a CPU one for each core up to 4.
    They end where one ends, up to rounding; see docs/scale.md. Under torchrun, its number counts."""


class TrainConfig(LoopConfig):
    """One training run."""

    model: Annotated[str, Field(min_length=1)] = Field(examples=["miniature"])
    """The folder of a diffusers pipeline, or the word miniature."""
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = GRPOConfig()
    """How the model learns from the scores."""
    optimiser: OptimiserConfig = OptimiserConfig()
    policy: PolicyConfig = FullPolicy()
    """Which weights are trained."""
    rewards: Annotated[tuple[RewardConfig, ...], Field(min_length=1)] = Field(examples=[[{"name": "alignment"}]])
    """At least one; their weights add up to 1."""
    categories: dict[str, dict[str, Weight]] = Field(default={}, examples=[{"portrait": {"alignment": 1.0}}])
    """Prompts of these categories have weights of their own, by reward, which add up to 1. A reward that is not named has
    weight 0 there and is not asked. A key is a category (portrait), a task (edit or t2i), or both (edit/portrait); of
    several that fit a prompt both come first, then the task."""
    data: DataConfig = Field(examples=[{"prompts": "prompts.jsonl"}])
    deadlines: DeadlineConfig = Field(default=DeadlineConfig(), json_schema_extra=FREE)
    cache: CacheConfig | None = Field(default=None, json_schema_extra=FREE)
    """Where scores of judges in folders and behind servers are kept; null keeps none."""
    missing_budget: Share = Field(default=0.05, json_schema_extra=FREE)
    """Share of the scores asked for that may be missing in a step; beyond it the run stops, resumable."""
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), json_schema_extra=FREE)
    monitor: MonitorConfig = Field(default=MonitorConfig(), json_schema_extra=FREE)
    budget: BudgetConfig = BudgetConfig()

    @property
    def judges(self) -> dict[str, AnyJudgeConfig | None]:
        """Who gives each reward, by the key of the reward, such as rewards.0."""
        return {f"rewards.{row}": reward.judge for row, reward in enumerate(self.rewards)}

    def broken_rules(self) -> Iterator[Broken]:
        """With grpo `rollout.window_start` + `window_size` is at most `rollout.steps` - 1; with nft these, `transition` and
        `eta` mean nothing and stay out. `algorithm.guidance_mode: none` needs `rollout.guidance: 1`. `optimiser.micro_batch`
        divides `rollout.prompts` x `group_size`. Rewards have names of their own, which gates and `categories` use. Their
        weights add up to 1, and so do those of each of `categories`; every reward has a weight somewhere or gates another.
        """
        yield from self._rollout_rules()
        yield from reward_rules(self)

    def _rollout_rules(self) -> Iterator[Broken]:
        rollout, micro = self.rollout, self.optimiser.micro_batch
        if isinstance(self.algorithm, NFTConfig):
            for name in ("transition", "eta", "window_start", "window_size"):
                if getattr(rollout, name) != type(rollout).model_fields[name].default:
                    rule = "has no effect with nft, whose rollout is deterministic"
                    yield Broken((f"rollout.{name}", "algorithm.name"), rule, "remove it, or use grpo")
        elif (end := rollout.window_start + rollout.window_size) > rollout.steps - 1:
            window = ("rollout.window_size", "rollout.window_start", "rollout.steps")
            rule = f"window_start + window_size = {end} must leave the last of the {rollout.steps} steps deterministic"
            most = max(rollout.steps - 1 - rollout.window_start, 1)
            yield Broken(window, rule, f"set window_size to at most {most} or raise steps to {end + 1}")
        if self.algorithm.guidance_mode == "none" and rollout.guidance != 1:
            keys = ("algorithm.guidance_mode", "rollout.guidance")
            rule = f"none samples without guidance, but rollout.guidance is {rollout.guidance:g}"
            yield Broken(keys, rule, "set rollout.guidance to 1 or the mode to hybrid")
        samples = rollout.prompts * rollout.group_size
        if micro is not None and samples % micro:
            small = [d for d in range(1, math.isqrt(samples) + 1) if samples % d == 0]
            near = max(d for pair in small for d in (pair, samples // pair) if d <= micro)
            rule = f"must divide the {rollout.prompts} x {rollout.group_size} = {samples} pictures of a step"
            yield Broken(("optimiser.micro_batch", "rollout.prompts", "rollout.group_size"), rule, f"set it to {near}")
