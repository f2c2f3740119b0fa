"""What can be set for the stages of a recipe whose commands have no file of settings of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tastemaker.config.base import Broken, Settings
from tastemaker.config.settings import FREE, TrainConfig


class CurateStage(Settings):
    """Prompts that can teach; see `tastemaker curate`."""

    keep: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, json_schema_extra=FREE)
    """Keep this share of the prompts, those with the largest ranges; null with no `above` keeps half."""
    above: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, json_schema_extra=FREE)
    """Keep the prompts whose range is above this."""
    training: TrainConfig = Field(examples=[{"name": "t2i", "model": "miniature"}])
    """The training that they are for: its prompts, sampler and rewards. `like: STAGE/training` takes these settings."""

    def broken_rules(self) -> Iterator[Broken]:
        """`keep` or `above`, not both."""
        if self.keep is not None and self.above is not None:
            yield Broken(("keep", "above"), "both are given", "a list has one threshold, choose one of them")


class ExportStage(Settings):
    """Plain diffusers files; see `tastemaker export`."""

    run: Annotated[str, Field(min_length=1)] = Field(examples=["stage:student/run"])
    """The folder of a run."""
    form: Literal["pipeline", "transformer", "lora"] | None = None
    """What to write; null is lora for a LoRA policy, else pipeline."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the trained weights."""
    evaluation: Annotated[str, Field(min_length=1)] | None = Field(None, examples=["stage:compared/evaluation/summary.json"])
    """The evaluation whose numbers the model card has: its summary.json; null gives the card none."""
