"""What can be set for `tastemaker train-reward`: a judge that learns to score as people do.

The objective is a union chosen by its `kind`, so that a setting which means nothing for the chosen one cannot be written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tastemaker.config.base import Broken, Name, Positive, Settings
from tastemaker.config.settings import FREE, LENGTH, CheckpointConfig, FullPolicy, OptimiserConfig

FileName = Annotated[str, Field(min_length=1)]
Dimension = Annotated[str, Field(min_length=1)]
LossWeight = Annotated[float, Field(ge=0, le=1000)]
PartShare = Annotated[float, Field(ge=0, le=1)]


class JudgedData(Settings):
    """What people said. Paths start at the config's own folder."""

    ratings: tuple[FileName, ...] = ()
    """JSONL files of ratings: pictures with every rater's own score from 1 to 5."""
    votes: tuple[FileName, ...] = ()
    """JSONL files of pair votes: which of two pictures a person preferred."""
    pictures: FileName | None = None
    """The folder that the rows' picture names start at; null is the folder of each file."""
    dimension: Dimension | tuple[Dimension, Dimension] | None = None
    """The ratings that count are those on this dimension; null where the files hold one only. Of two, as [quality, fidelity], a
    rater's score is the mean, but at most one above the lower, and counts where the rater gave both. Votes have none."""
    task: Literal["t2i", "edit"] | None = None
    """The rows that count are those of this task; null takes both."""
    skip_bad: Annotated[int, Field(ge=0)] = 0
    """Most bad rows of each file that are skipped (and counted) before reading stops with an error."""

    def broken_rules(self) -> Iterator[Broken]:
        """No file is named twice; two dimensions differ."""
        for name, count in Counter((*self.ratings, *self.votes)).items():
            if count > 1:
                yield Broken(("ratings", "votes"), f"{name!r} is named {count} times", "a file counts once, remove the others")
        if isinstance(self.dimension, tuple) and len({*self.dimension}) == 1:
            yield Broken(("dimension",), "names one dimension twice", "name it alone, or two")


class _Objective(Settings):
    """What all objectives have in common."""

    score_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Weight of the loss of the scores."""
    mass_weight: LossWeight = 0.1
    """Weight of -log(probability on the five scores): without it nothing keeps the judge answering with a score."""


class PointwiseObjective(_Objective):
    """The expected score is regressed on the raters' mean (Eq. 2, 3)."""

    kind: Literal["pointwise"] = "pointwise"
    """Chooses this objective."""


class SoftLabelObjective(_Objective):
    """The distribution of the score is fitted to that of the raters, by cross-entropy."""

    kind: Literal["soft_label"] = "soft_label"
    """Chooses this objective."""


class PairwiseObjective(_Objective):
    """Bradley-Terry on pairs (Eq. 1), ties at one half: votes, or where there are none every two ratings of one prompt."""

    kind: Literal["pairwise"] = "pairwise"
    """Chooses this objective."""


class ChainOfThoughtObjective(_Objective):
    """The judge first writes the given rationale, then scores; both are learnt. Every rating to train on needs a rationale."""

    kind: Literal["chain_of_thought"] = "chain_of_thought"
    """Chooses this objective."""
    scores: Literal["pointwise", "soft_label"] = "pointwise"
    """The loss of the score that follows the rationale."""
    rationale_weight: LossWeight = 1.0
    """Weight of the rationale's cross-entropy."""
    max_rationale_tokens: Positive = 512
    """A rationale that has not ended by then has no score."""
    start: str = "<think>\n"
    """What opens a rationale."""
    stop: Annotated[str, Field(pattern=r"\S")] = "</think>"
    """What ends one."""


Objective = Annotated[
    PointwiseObjective | SoftLabelObjective | PairwiseObjective | ChainOfThoughtObjective, Field(discriminator="kind")
]


class JudgeLora(Settings):
    """Train low-rank additions to linear layers."""

    kind: Literal["lora"] = "lora"
    """Chooses this policy."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The addition is scaled by alpha / rank; null is the rank, a scale of 1."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the linear layers, as their ends; null is every one but the output."""
    merge: bool = True
    """Add it to the base in what is written, so that the folder needs no base. false writes the LoRA alone, small, which
    opens only where its base is."""


class RewardOptimiser(OptimiserConfig):
    """AdamW and what surrounds it."""

    learning_rate: Annotated[float, Field(ge=1e-8, le=1e-1)] = 1e-4
    """Rate of AdamW. The default is a usual start for a LoRA; training all weights wants about a tenth of it."""
    batch_size: Positive = 32
    """Examples of one update; a pair is one."""
    micro_batch: Positive | None = None
    """Examples of one forward and backward, whose gradients are added up; null takes the whole batch at once. Limits memory and
    changes the result by rounding alone."""
    gradient_checkpointing: bool = False
    """Compute activations twice in place of keeping them: less memory, more time."""

    def broken_rules(self) -> Iterator[Broken]:
        """`micro_batch` is at most `batch_size`."""
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            rule = f"must be at most the batch of {self.batch_size}"
            yield Broken(("micro_batch", "batch_size"), rule, "lower it or raise batch_size")


class SplitConfig(Settings):
    """Three parts that share nothing of what they are kept apart by. Shares are of rows, and met as nearly as that allows."""

    train: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Learnt from."""
    calibration: PartShare = 0.1
    """Fits the map from the judge's scores to people's, and nothing else; 0 fits none."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What the judge card's numbers are of."""
    apart: tuple[Literal["prompt", "source", "generator"], ...] = ("prompt", "source", "generator")
    """What no two parts share, besides pictures. Without generator the card says nothing of generators that are new to it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which rows go where; another one deals anew."""

    def broken_rules(self) -> Iterator[Broken]:
        """The three shares add up to 1, and `apart` names prompt."""
        total = self.train + self.calibration + self.test
        if abs(total - 1) > 1e-9:
            yield Broken(("train", "calibration", "test"), f"the three shares add up to {total:g}", "make it 1")
        if "prompt" not in self.apart:
            rule = "must name prompt: else the test asks what was learnt by heart"
            yield Broken(("apart",), rule, "add prompt")


class ReadOutConfig(Settings):
    """How a score is read; the judge keeps it."""

    lead: Annotated[str, Field(min_length=1)] = "Score: "
    """What stands right before the score."""
    min_mass: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Least probability of the five scores together; with less the score is missing."""


class RewardBudget(Settings):
    """When training ends."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = Field(default=2.0, json_schema_extra=LENGTH)
    """Times that each example is seen."""
    max_steps: Positive | None = Field(default=None, json_schema_extra=LENGTH)
    """Steps after which it ends even so."""
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(default=None, json_schema_extra=FREE)
    """Minutes of this process; training then stops at a safe point and the same command goes on."""


class MeasureConfig(Settings):
    """How the judge card is measured."""

    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Redraws behind each interval; whole prompts are redrawn."""
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Of the calibration error."""
    lettered_pictures: Annotated[int, Field(ge=0)] = 64
    """Pictures of the test part that are judged again with 5/5, and with 1/5, in large letters on them; 0 asks about none."""
    batch_size: Positive = 16
    """Most pictures that are judged at once."""


class RewardTrainConfig(Settings):
    """One training run of a reward model."""

    name: Name = Field(examples=["taste"])
    """The run's name, and its folder's."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All randomness of training follows from this number."""
    base: FileName = Field(examples=["/models/Qwen3-VL-4B-Instruct"])
    """The local folder of an image-text-to-text model of transformers, from which training starts."""
    rubric: FileName = Field(examples=["aesthetic.v1"])
    """What the judge is told: a shipped rubric's label, or the path of a text file NAME.v1.md."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward passes; auto takes bf16 where the device has arithmetic for it. Weights that are trained stay fp32."""
    threads: Positive | None = None
    """CPU threads; null takes the physical cores this process may use."""
    data: JudgedData = Field(examples=[{"ratings": ["ratings.jsonl"]}])
    objective: Objective = PointwiseObjective()
    """What is learnt from them."""
    policy: Annotated[FullPolicy | JudgeLora, Field(discriminator="kind")] = JudgeLora()
    """Which weights are trained."""
    optimiser: RewardOptimiser = RewardOptimiser()
    splits: SplitConfig = SplitConfig()
    read_out: ReadOutConfig = ReadOutConfig()
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), json_schema_extra=FREE)
    evaluation: MeasureConfig = Field(default=MeasureConfig(), json_schema_extra=FREE)
    budget: RewardBudget = RewardBudget()

    def broken_rules(self) -> Iterator[Broken]:
        """`data` names ratings or votes. Every objective but pairwise needs ratings, and so does `data.dimension` where there
        are votes.
        """
        data, kind = self.data, self.objective.kind
        if not (data.ratings or data.votes):
            yield Broken(("data", "data.ratings", "data.votes"), "names neither ratings nor votes", "give at least one file")
        elif kind != "pairwise" and not data.ratings:
            rule = f"{kind} learns from ratings, and data.ratings is empty"
            yield Broken(("objective.kind", "data.ratings"), rule, "name a file of ratings, or train with kind: pairwise")
        if data.dimension is not None and data.votes and not data.ratings:
            yield Broken(("data.dimension", "data.ratings"), "votes have no dimension", "remove it or give ratings")
