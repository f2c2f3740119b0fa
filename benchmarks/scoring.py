"""The lever of scoring: what is judged in the background while the next group is drawn, with a judge as slow as the drawing.

The judge is on a server: it takes time and none of this machine's. It is given the seconds that drawing one group took just
before, so that all of it can be hidden but the last group's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor

from benchmarks.timing import Contest, Outcome, Way, timed
from benchmarks.workload import Size, Workload, text_to_image
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.rewards.pipeline import ScoringPipeline, joined
from tastemaker.rollout import Sampler, denoise
from tastemaker.types import Prompt, Scores

GROUPS = 24
"""Groups of one step, as in training; one in so many cannot be hidden."""
HIDDEN_TARGET = 1.8
"""At least so many times as fast as judging after drawing; with this judge and number of groups 1.92 is all there is."""


@dataclass(frozen=True, eq=False)
class ScoredStep:
    """The drawing and scoring of one training step, group after group."""

    workload: Workload
    judge_seconds: float
    hidden: list[float] = field(default_factory=list)
    """Share of the judging in each run that nobody waited for."""

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        time.sleep(self.judge_seconds)
        # Not by torch, which would begin a second pool of threads here: two pools on the same cores slow the drawing.
        means = images.cpu().numpy().mean((1, 2, 3))
        return Scores(("mean",), torch.from_numpy(means)[:, None])

    def in_background(self) -> Outcome:
        prompts = self.workload.prompts
        with ScoringPipeline(self.score, deadline=600) as scoring:
            handles = [scoring.submit(row, draw(self.workload, row), [prompt]) for row, prompt in enumerate(prompts)]
            scores = joined([scoring.collect(handle) for handle in handles])
        self.hidden.append(1 - scoring.seconds_waiting / scoring.seconds_judging)
        return {"scores": scores.values_BR}

    def one_after_the_other(self) -> Outcome:
        scores = [self.score(draw(self.workload, row).cpu(), [prompt]) for row, prompt in enumerate(self.workload.prompts)]
        return {"scores": joined(scores).values_BR}


def scored_step(adapter: QwenImage21Adapter, size: Size, groups: int = GROUPS) -> ScoredStep:
    workload = text_to_image(adapter, replace(size, prompts=groups))
    seconds = median(timed(lambda: {"": draw(workload, 0)}, workload.device, time.perf_counter) for _ in range(3))
    return ScoredStep(workload, seconds)


def scoring_contest(step: ScoredStep) -> Contest:
    ours = Way("tastemaker", step.in_background)
    others = [Way("judged after it is drawn", step.one_after_the_other, target=HIDDEN_TARGET)]
    return Contest("step with a judge as slow as drawing", "images/s", step.workload.size.images, ours, others)


def draw(workload: Workload, row: int) -> Tensor:
    """The pictures of one prompt."""
    adapter, size = workload.adapter, workload.size
    prompts = workload.prompts[row : row + 1]
    rows = torch.arange(row * size.group, (row + 1) * size.group)
    trajectory = denoise(
        adapter,
        workload.embeddings.condition(prompts).to(workload.device),
        workload.embeddings.negative("", prompts).to(workload.device),
        group_size=size.group,
        sampler=Sampler(adapter.sigmas(size.steps, SIDE, SIDE), guidance=size.guidance),
        noise=lambda where: workload.noise(where)[rows],
    )
    return adapter.decode(trajectory.final_BX, SIDE, SIDE)
