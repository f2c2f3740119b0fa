"""From one rollout and its signal to new weights: old velocities where the algorithm wants them, passes, loss, optimiser.

A pass holds groups of one layout, so that one prefix, differentiable, serves all samples and trained steps of a prompt; where a
group is larger than `micro_batch`, it goes through in pieces, each with a prefix of its own.
The loss of a mini-batch is the mean over its samples, whatever passes and processes they go through: each process adds the
gradients of its own samples, weighted by their share of all, and these are added up before the optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tastemaker.algorithms.grpo import GRPO
from tastemaker.algorithms.nft import NFT
from tastemaker.errors import UserMistake
from tastemaker.flow.guidance import guided, offset
from tastemaker.flow.loss import velocity_kl
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import reference as untouched
from tastemaker.rollout import negative_rows, stored_velocities, take
from tastemaker.runtime import seeds
from tastemaker.runtime.guard import NanGuard
from tastemaker.training.batch import Batch, Part
from tastemaker.training.ranks import LARGEST, over_ranks
from tastemaker.training.setup import Setup, keyed_noise
from tastemaker.training.state import Metrics, PolicyState
from tastemaker.training.teachers import Teachers
from tastemaker.types import Signal, Trajectory

MAX_OVER_FLOOR = 3
GUIDED_EVERY, GUIDED_GROUPS = 10, 4
"""Steps from one look at how far guidance carries the policy to the next, beginning with the first; prompts looked at."""


def update(setup: Setup, state: PolicyState, batch: Batch, trajectory: Trajectory, signal: Signal, guard: NanGuard) -> Metrics:
    """Optimiser steps on one rollout, over the groups that have a signal, dealt out into `updates_per_rollout` mini-batches.

    They are dealt like cards, so that every mini-batch has its share of every part. `batch` and `trajectory` are this process's
    share of the step, `signal` is that of the whole step. The guard has judged what was drawn (`policy.finite`).
    """
    if guard.refused(state.attempts + 1):  # for what was drawn
        state.attempts += 1
        return {"updates": 0.0, "updates_skipped": 1.0}
    ids = batch.sample_ids(setup.group_size)
    groups = signal.kept_B.view(-1, setup.group_size).any(1).nonzero().flatten()
    if isinstance(setup.algorithm, NFT):
        with state.as_old():
            trajectory = forward_process(setup, setup.algorithm, batch, trajectory, signal, groups, state.step + 1)
    if setup.teachers is not None:
        trajectory = taught(setup, setup.teachers, batch, trajectory, signal)
    looked: Metrics = {}
    if len(groups) and state.step % GUIDED_EVERY == 0 and setup.sampler.policy_mode == "hybrid" and setup.reference is not None:
        looked["kl_guided"] = guided_distance(setup, setup.reference, batch, trajectory, signal, groups[:GUIDED_GROUPS])
    collected: list[dict[str, Tensor]] = []
    skipped = 0
    num_updates = min(setup.updates_per_rollout, len(groups))
    for number in range(num_updates):
        some = groups[number::num_updates]
        now = setup if collected else at_old_weights(setup)
        metrics = over_ranks(setup.ranks, accumulate(now, batch, trajectory, signal, some, state.take_gradients))
        setup.ranks.add_up(state.parameters)
        if not collected and isinstance(setup.algorithm, GRPO):
            check_floor(setup.algorithm, state, metrics)
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, setup.max_grad_norm)
        state.attempts += 1
        finite = guard.check(state.attempts, {"loss": metrics["loss"], "grad_norm": norm}, ids)
        if finite.ok:
            state.update()
            collected.append({**metrics, "grad_norm": norm.detach(), "grad_clipped": (norm > setup.max_grad_norm).float()})
        else:
            skipped += 1
            state.drop_gradients()
    return {**_means(collected), **looked, "updates": float(len(collected)), "updates_skipped": float(skipped)}


def accumulate(
    setup: Setup,
    batch: Batch,
    trajectory: Trajectory,
    signal: Signal,
    groups: Tensor,
    after_backward: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Gradients of the mean loss over the samples with a signal of some groups of the step; returns metrics averaged alike.

    With several processes, this one's summands of both. `after_backward` is called after each pass.
    """
    num_samples = int(signal.kept_B.view(-1, setup.group_size)[groups].sum())
    totals: dict[str, Tensor] = {}
    for some in passes_of(setup, batch, signal, groups):
        loss, metrics = loss_of(setup, some, trajectory, signal)
        share = len(some.rows) / num_samples
        (loss * share).backward()
        after_backward()
        for name, value in {"loss": loss.detach(), **metrics}.items():
            if name == LARGEST:
                totals[name] = torch.maximum(totals.get(name, value), value)
            else:
                totals[name] = totals.get(name, torch.zeros_like(value)) + share * value
    return totals


@torch.no_grad()
def forward_process(
    setup: Setup, algorithm: NFT, batch: Batch, trajectory: Trajectory, signal: Signal, groups: Tensor, step: int
) -> Trajectory:
    """The points that NFT trains on, with the velocities of the rollout's weights, which the transformer has to have here.

    The samples of a prompt share the noise: what it does to a gradient cancels, because their advantages sum to 0. That doubled
    the cosine of two independent gradients (docs/decisions.md).
    """
    one_a_prompt = keyed_noise(setup, batch.prompts, 1, "forward", step, places=batch.places)

    def noise(where: int | Literal["init"]) -> Tensor:
        return one_a_prompt(where).repeat_interleave(setup.group_size, dim=0)

    points = algorithm.forward_points(trajectory, noise, shift=float(seeds.random(setup.seed, "sigmas", step).random()))
    if setup.sampler.policy_mode in ("hybrid", "both"):
        points = replace(points, offsets_BSX=torch.full_like(points.states_BSX, float("nan")))
    offsets_BSX = points.offsets_BSX
    for some in passes_of(setup, batch, signal, groups):
        here = take(points, some.rows)
        v_cond = stored_velocities(setup.adapter, some.prefix(setup.adapter), here)
        points.velocities_BSX[some.rows] = v_cond.to(points.velocities_BSX)
        if offsets_BSX is not None:
            v_guided = guided_velocities(setup, setup.adapter, some, here, v_cond)
            offsets_BSX[some.rows] = offset(v_guided, v_cond).to(offsets_BSX)
    return points


@torch.no_grad()
def guided_distance(
    setup: Setup, reference: nn.Module, batch: Batch, trajectory: Trajectory, signal: Signal, groups: Tensor
) -> float:
    """How far the policy's guided velocity is from the reference's own, where the loss sees the conditional ones: mean square.

    At the stored states of the first sample with a signal of each of some groups of the step.
    """
    kept_PG = signal.kept_B.view(-1, setup.group_size)
    first_PG = torch.zeros_like(kept_PG)
    first_PG[groups, kept_PG[groups].int().argmax(1)] = True
    total = torch.zeros((), device=trajectory.final_BX.device)
    for some in passes_of(setup, batch, replace(signal, kept_B=first_PG.flatten()), groups):
        here = take(trajectory, some.rows)
        own = guided_velocities(setup, setup.adapter, some, here)
        with untouched(setup.adapter, reference) as base:
            theirs = guided_velocities(setup, base, some, here)
        total += velocity_kl(own.flatten(0, 1), theirs.flatten(0, 1)).mean() * len(some.rows) / len(groups)
    return float(over_ranks(setup.ranks, {"kl_guided": total})["kl_guided"])


def guided_velocities(setup: Setup, adapter: Adapter, some: Pass, here: Trajectory, v_cond: Tensor | None = None) -> Tensor:
    """(B, S, *X) velocities that a model is sampled with at the stored states; `v_cond` if known is its conditional branch."""
    if v_cond is None:
        v_cond = stored_velocities(adapter, some.prefix(adapter), here)
    v_uncond = stored_velocities(adapter, some.negative_prefix(adapter), here)
    return guided(v_cond, v_uncond, setup.sampler.guidance, setup.sampler.rescale)


@torch.no_grad()
def taught(setup: Setup, teachers: Teachers, batch: Batch, trajectory: Trajectory, signal: Signal) -> Trajectory:
    """The student's states with the velocities of each prompt's teacher, guided as that teacher is; one prefix per prompt.

    Nothing is kept for a way back here, so `micro_batch` cuts no group. A teacher is brought to the device once: all its
    samples are next to each other in time, whatever their order in the step.
    """
    velocities_BSX = torch.full_like(trajectory.velocities_BSX, float("nan"))
    whole = setup if setup.micro_batch is None else replace(setup, micro_batch=max(setup.micro_batch, setup.group_size))
    for teacher, taught_here in teachers.places(batch.prompts):
        with teachers.seated(teacher) as adapter:
            for some in passes_of(whole, batch, signal, torch.tensor(batch.places)[taught_here]):
                here = take(trajectory, some.rows)
                v_cond = stored_velocities(adapter, some.prefix(adapter), here)
                v_uncond = None
                if teacher.guidance != 1:
                    negative = setup.embeddings.negative(teacher.negative_prompt, some.part.prompts).to(v_cond.device)
                    asked = replace(some, part=replace(some.part, negative=negative))
                    v_uncond = stored_velocities(adapter, asked.negative_prefix(adapter), here)
                v = guided(v_cond, v_uncond, teacher.guidance, teacher.rescale)
                velocities_BSX[some.rows.to(v.device)] = v.to(velocities_BSX)
    return replace(trajectory, velocities_BSX=velocities_BSX)


@dataclass(frozen=True, eq=False)
class Pass:
    """Some prompts of one part, and those of their samples that go through the model together."""

    part: Part
    places: Tensor
    """Of the prompts in the part."""
    rows: Tensor
    """Of the batch's trajectory."""
    rows_of_step: Tensor
    """The same samples among all of the step."""
    prompt_of_row: Tensor
    """Index into `places`."""

    def prefix(self, adapter: Adapter) -> Any:
        """One row for each sample, made by one pass over each prompt; differentiable."""
        return adapter.prefix(self.part.condition.select(self.places)).select(self.prompt_of_row)

    def negative_prefix(self, adapter: Adapter) -> Any:
        """The same of the negative prompt, in a guided batch."""
        if self.part.negative is None:
            raise ValueError("the batch has no negative condition; prepare it with the sampler that is guided")
        negative = self.part.negative.select(negative_rows(self.part.negative, self.places).unique())
        return adapter.prefix(negative).select(negative_rows(negative, self.prompt_of_row))


def passes_of(setup: Setup, batch: Batch, signal: Signal, groups: Tensor) -> Iterator[Pass]:
    """Every sample of the batch with a signal, of some groups of the step, once, in order, at most `micro_batch` in a pass."""
    most = setup.micro_batch or len(groups) * setup.group_size
    begins = 0
    for part in batch.parts:
        mine = part.among(groups)
        for some in mine.split(max(1, most // setup.group_size)) if len(mine) else ():
            for rows in _kept_rows(signal, some, setup.group_size).split(most):
                own = rows + (begins - part.first) * setup.group_size
                yield Pass(part, some - part.first, own, rows, torch.searchsorted(some, rows // setup.group_size))
        begins += len(part.prompts)


def _kept_rows(signal: Signal, groups: Tensor, group_size: int) -> Tensor:
    """Rows of the step: the samples with a signal of some groups."""
    rows = (groups[:, None] * group_size + torch.arange(group_size)).flatten()
    return rows[signal.kept_B[rows]]


def loss_of(setup: Setup, some: Pass, trajectory: Trajectory, signal: Signal) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a pass: one differentiable prefix pass of its prompts, one forward of samples x steps."""
    here = take(trajectory, some.rows)
    reference = None
    if setup.reference is not None:
        # Before the policy's forward: with gradient checkpointing its backward repeats it with whatever layers are on by then.
        with untouched(setup.adapter, setup.reference) as base:
            reference = stored_velocities(base, some.prefix(base), here)
    velocities = stored_velocities(setup.adapter, some.prefix(setup.adapter), here)
    unconditional = None
    if setup.sampler.policy_mode == "both":
        unconditional = stored_velocities(setup.adapter, some.negative_prefix(setup.adapter), here)
    advantages = signal.advantages_B[some.rows_of_step].to(velocities.device)
    return setup.algorithm.loss(here, advantages, setup.sampler, velocities, unconditional, reference)


def at_old_weights(setup: Setup) -> Setup:
    """For what comes before the first update of a rollout: GRPO's ratio is 1 there, and clips no rounding."""
    if not isinstance(setup.algorithm, GRPO):
        return setup
    return replace(setup, algorithm=replace(setup.algorithm, at_old=True))


def check_floor(algorithm: GRPO, state: PolicyState, metrics: dict[str, Tensor]) -> None:
    """The log ratio before the first update of a rollout is rounding alone; a clip range below it would clip noise after it.

    A run does not begin like that, and ends after `MAX_OVER_FLOOR` such rollouts in a row: of few samples the floor is a rough
    figure, and one that is above by chance must not end what has gone well so far.
    """
    floor = metrics["floor"] = metrics["mean_abs_log_ratio"].clone()
    over = math.isfinite(float(floor)) and float(floor) >= algorithm.clip_range
    state.over_floor = state.over_floor + 1 if over else 0
    if state.over_floor >= MAX_OVER_FLOOR or (over and state.updates == 0):
        raise UserMistake(
            f"algorithm.clip_range {algorithm.clip_range:g} is not above the rounding of the log ratio at the old "
            f"weights, {float(floor):.1e} nats per element at this precision: raise it, train earlier steps, which have "
            "more noise (rollout.window_size), or set precision to fp32"
        )


def _means(collected: list[dict[str, Tensor]]) -> Metrics:
    """Means over the updates of a step; the floor is the first update's alone. One synchronisation with the device."""
    means: Metrics = {}
    for name in dict.fromkeys(name for metrics in collected for name in metrics):
        values = torch.stack([metrics[name].float() for metrics in collected if name in metrics])
        means["log_ratio_floor" if name == "floor" else name] = float(values.max() if name == LARGEST else values.mean())
    return means
