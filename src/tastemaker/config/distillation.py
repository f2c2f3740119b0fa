"""What can be set for `tastemaker distill`: one student that learns what several guided teachers do, without guidance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tastemaker.config.base import Broken, Guidance, Name, Positive, Settings
from tastemaker.config.settings import (
    FREE,
    BudgetConfig,
    CheckpointConfig,
    DataConfig,
    FullPolicy,
    LoopConfig,
    OptimiserConfig,
    PolicyConfig,
)


class TeacherConfig(Settings):
    """A teacher: its weights, what it teaches, and how it is sampled."""

    name: Name = Field(examples=["t2i"])
    """What it is called."""
    weights: Annotated[str, Field(min_length=1)] = Field(examples=["runs/t2i/transformer"])
    """A folder: a transformer, a pipeline, a LoRA on the student's base, or a difference to it (delta.safetensors)."""
    teaches: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(examples=[["t2i"]])
    """The prompts it teaches: a task (t2i, edit), a category (portrait), or both (edit/portrait). Of several teachers that
    fit a prompt both come first, then the task."""
    guidance: Guidance = 3.0
    """Scale of its classifier-free guidance, which goes into the student; 1 is none."""
    guidance_rescale: bool | None = None
    """Rescale its guided velocity to the norm of the conditional one; null does so where the model's own pipeline does, as the
    training of a specialist does."""
    negative_prompt: str = ""
    """The words of its unconditional branch."""
    on_disk: bool = False
    """Read its weights from the disk whenever its turn comes, instead of keeping them in memory. A LoRA, which is
    small, is kept."""


class StudentRollout(Settings):
    """How the student samples its own trajectories: deterministic, and without guidance."""

    prompts: Annotated[int, Field(ge=1, le=1_000_000)] = 48
    """Prompts of one training step."""
    group_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Pictures of one prompt. They share the prompt's prefix, but teach less than those of other prompts."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Sampling steps N from noise to picture."""
    states: Positive | None = None
    """Of a trajectory's N states, how many are learnt from in a training step, drawn anew in each; null takes all."""
    picture_side: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 64
    """Height and width of the pictures in pixels; 64 is the miniature's."""
    max_batch: Positive = 256
    """Most pictures in one forward pass of sampling; limits memory and changes no result."""

    @property
    def guidance(self) -> float:
        """A student is sampled as it sampled in training."""
        return 1.0

    @property
    def unguided_every(self) -> None:
        """All of its steps are."""

    @property
    def negative_prompt(self) -> str:
        return ""

    def broken_rules(self) -> Iterator[Broken]:
        """`states` is at most `steps`."""
        if self.states is not None and self.states > self.steps:
            yield Broken(("states", "steps"), f"must be at most steps = {self.steps}", "lower it, or set it to null for all")


class DistillConfig(LoopConfig):
    """One distillation."""

    model: Annotated[str, Field(min_length=1)] = Field(examples=["miniature"])
    """Where the student starts: the folder of a diffusers pipeline, or the word miniature."""
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = Field(
        examples=[[{"name": "t2i", "weights": "runs/t2i/transformer", "teaches": ["t2i"]}]]
    )
    """Every prompt needs one."""
    rollout: StudentRollout = StudentRollout()
    weighting: Literal["uniform", "delta_t"] = "uniform"
    """Weights of a trajectory's states: all the same, or the length of the step that starts there. With `states` the
    expected loss is that of all states either way."""
    updates_per_rollout: Positive = 1
    """Optimiser steps on one rollout: its prompts are dealt out into so many mini-batches, each used once."""
    optimiser: OptimiserConfig = OptimiserConfig()
    policy: PolicyConfig = FullPolicy()
    """Which weights of the student are trained."""
    data: DataConfig = Field(examples=[{"prompts": "prompts.jsonl"}])
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), json_schema_extra=FREE)
    budget: BudgetConfig = BudgetConfig()

    def broken_rules(self) -> Iterator[Broken]:
        """Teachers have names of their own, and no two teach the same. Every prompt has a teacher and every teacher a prompt,
        which is seen when the prompts are read.
        """
        names: dict[str, int] = {}
        taught: dict[str, int] = {}
        for row, teacher in enumerate(self.teachers):
            if (first := names.setdefault(teacher.name, row)) != row:
                yield Broken((f"teachers.{row}.name",), f"is also the name of teachers.{first}", "choose another name")
            for what in teacher.teaches:
                if (first := taught.setdefault(what, row)) != row:
                    rule = f"{what} is also taught by {self.teachers[first].name}"
                    yield Broken((f"teachers.{row}.teaches",), rule, "a prompt has one teacher, remove it from one")
