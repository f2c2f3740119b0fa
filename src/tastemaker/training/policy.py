"""The one loop that trains a policy: prompts -> rollout -> scores -> signal -> update, the same for every algorithm and task.

Judges work in the background: with several chunks, those of whole groups drawn so far are judged while the next one is drawn.

Everything it needs is handed in (`Setup`), so that the loop knows neither files nor settings. All randomness is keyed by (seed,
step, prompt id, sample), so a step can be repeated, resumed and spread over processes without changing its result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tastemaker.algorithms.grpo import GRPO
from tastemaker.algorithms.nft import NFT
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.data.groups import prompts_of_step
from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.flow.guidance import guided, offset
from tastemaker.models.adapter import Adapter
from tastemaker.models.lora import with_transformer
from tastemaker.rewards.composite import Composite, commonest_reasons, missing_share
from tastemaker.rewards.pipeline import ScoringPipeline, joined
from tastemaker.rollout import Noise, Sampler, denoise, negative_rows, stored_velocities, take
from tastemaker.runtime import seeds
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.state import Metrics, PolicyState, RunLike, steps
from tastemaker.types import Condition, Prompt, Scores, Signal, Trajectory, group_index


@dataclass(frozen=True)
class Setup:
    """What one training run is made of."""

    adapter: Adapter
    sampler: Sampler
    algorithm: GRPO | NFT
    composite: Composite
    prompts: Sequence[Prompt]
    embeddings: EmbeddingCache
    seed: int
    height: int
    width: int
    prompts_per_step: int
    group_size: int
    max_batch: int
    updates_per_rollout: int
    micro_batch: int | None
    max_grad_norm: float
    negative_prompt: str = ""
    reference: nn.Module | None = None
    """The frozen transformer for the velocity KL; None switches that term off."""
    missing_budget: float = 0.05
    """Share of the scores asked for that may be missing in a step before the run stops."""
    unguided_every: int | None = None
    """Each so many-th step samples without guidance; None guides them all."""
    chunks: int = 1
    """Parts, of whole groups, in which the pictures of a step are drawn and judged."""
    scoring_deadline: float = 1800.0
    """Seconds from drawing a chunk to its scores before the run stops."""


@dataclass(frozen=True)
class Batch:
    """One step's prompts, encoded, or a chunk of them."""

    prompts: Sequence[Prompt]
    condition: Condition
    negative: Condition | None
    first: int = 0
    """The place of the first prompt among those of the step."""


def train(
    setup: Setup,
    state: PolicyState,
    run: RunLike,
    *,
    max_steps: int,
    checkpoint_every: int,
    guard: NanGuard,
    stop: StopRequest,
    deadline: Callable[[], bool] = lambda: False,
    after_step: Callable[[int, Tensor, Batch], None] = lambda step, images, batch: None,
) -> None:
    """Steps `state.step + 1` to `max_steps`. Ends early, saved and resumable, when a stop is requested or `deadline` past."""
    with pipeline(setup) as scoring:
        for step in steps(state, run, max_steps, checkpoint_every, guard, stop, deadline):
            began = time.perf_counter()
            now = at_step(setup, step)
            batch = prepare(now, step)
            trajectory, images, scores = draw_and_judge(now, batch, step, scoring)
            signal = signal_of(now, batch, scores)
            hidden = {"hidden_latency": scoring.hidden_latency()} if setup.chunks > 1 else {}
            metrics = update(now, state, batch, trajectory, signal, guard)
            seconds = time.perf_counter() - began
            run.log(step, {**signal.metrics, **metrics, **hidden, "images": len(images), "seconds": seconds})
            after_step(step, images, batch)


def pipeline(setup: Setup) -> ScoringPipeline:
    """One for the whole run: a thread of its own, with room for all chunks of a step."""
    return ScoringPipeline(setup.composite.score, deadline=setup.scoring_deadline, depth=setup.chunks)


def at_step(setup: Setup, step: int) -> Setup:
    """Every `unguided_every`-th step samples, and so learns, without guidance."""
    if setup.unguided_every is None or step % setup.unguided_every:
        return setup
    return replace(setup, sampler=replace(setup.sampler, guidance=1.0))


def prepare(setup: Setup, step: int) -> Batch:
    def shuffle(epoch: int):
        return seeds.random(setup.seed, "prompts", epoch)

    prompts = prompts_of_step(setup.prompts, step, setup.prompts_per_step, shuffle)
    device = next(setup.adapter.transformer.parameters()).device
    negative = setup.embeddings.negative(setup.negative_prompt, prompts).to(device) if setup.sampler.guided else None
    return Batch(prompts, setup.embeddings.condition(prompts).to(device), negative)


def draw_and_judge(setup: Setup, batch: Batch, step: int, scoring: ScoringPipeline) -> tuple[Trajectory, Tensor, Scores]:
    """The step's trajectory, pictures and scores (before gates). While a chunk is drawn, those before it are judged."""
    trajectories, images, handles = [], [], []
    for chunk in chunks_of(batch, setup.chunks):
        trajectories.append(rollout(setup, chunk, step))
        images.append(setup.adapter.decode(trajectories[-1].final_BX, setup.height, setup.width))
        handles.append(scoring.submit(f"{step}/{chunk.first}", images[-1], _repeated(setup, chunk)))
    scores = within_budget(setup, joined([scoring.collect(handle) for handle in handles]))
    return _one_trajectory(trajectories), torch.cat(images) if len(images) > 1 else images[0], scores


def chunks_of(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` chunks of consecutive prompts, or one for each prompt when there are fewer."""
    if count == 1:
        yield batch
        return
    for rows in torch.arange(len(batch.prompts)).tensor_split(min(count, len(batch.prompts))):
        first, end = int(rows[0]), int(rows[-1]) + 1
        # Rows of what the step encoded: encoded anew, a chunk would be padded to another length.
        negative = batch.negative.select(rows) if batch.negative is not None and len(batch.negative) > 1 else batch.negative
        yield Batch(batch.prompts[first:end], batch.condition.select(rows), negative, batch.first + first)


def _one_trajectory(parts: Sequence[Trajectory]) -> Trajectory:
    """The trajectories of chunks as that of the whole step, in order."""
    if len(parts) == 1:
        return parts[0]
    offsets = [part.offsets_BSX for part in parts if part.offsets_BSX is not None]
    return replace(
        parts[0],
        states_BSX=torch.cat([part.states_BSX for part in parts]),
        next_states_BSX=torch.cat([part.next_states_BSX for part in parts]),
        log_probs_BS=torch.cat([part.log_probs_BS for part in parts]),
        offsets_BSX=torch.cat(offsets) if offsets else None,
        velocities_BSX=torch.cat([part.velocities_BSX for part in parts]),
        final_BX=torch.cat([part.final_BX for part in parts]),
    )


def rollout(setup: Setup, batch: Batch, step: int) -> Trajectory:
    return denoise(
        setup.adapter,
        batch.condition,
        batch.negative,
        group_size=setup.group_size,
        sampler=setup.sampler,
        noise=keyed_noise(setup, batch.prompts, setup.group_size, "rollout", step, first=batch.first),
        max_batch=setup.max_batch,
    )


def keyed_noise(setup: Setup, prompts: Sequence[Prompt], group_size: int, purpose: str, step: int, *, first: int = 0) -> Noise:
    """The same for a chunk as for the whole step, when `first` is the place of its first prompt there."""
    shape = setup.adapter.latent_shape(setup.height, setup.width)
    device = next(setup.adapter.transformer.parameters()).device

    def noise(where: int | str) -> Tensor:
        # The place in the step is part of the key: a small data set may hold a prompt twice in one step.
        keys = [
            (setup.seed, purpose, step, str(where), place, prompt.id, sample)
            for place, prompt in enumerate(prompts, start=first)
            for sample in range(group_size)
        ]
        return seeds.noise_rows(shape, keys).to(device)

    return noise


def within_budget(setup: Setup, scores: Scores) -> Scores:
    """The scores of a whole step, before gates: one that did not arrive counts once, however many others it gates.

    Raises ServiceFailed when too many are missing.
    """
    share = missing_share(scores)
    if share > setup.missing_budget:
        raise ServiceFailed(
            f"{share:.0%} of the scores of this step are missing, more than the {setup.missing_budget:.0%} allowed: "
            + commonest_reasons(scores)
        )
    return scores


def signal_of(setup: Setup, batch: Batch, scores: Scores) -> Signal:
    """Gates first, then advantages under the weights of each prompt's category."""
    prompts = _repeated(setup, batch)
    gated = setup.composite.gated(scores, prompts)
    groups = group_index(len(batch.prompts), setup.group_size)
    signal = setup.algorithm.signal(gated, groups, setup.composite.weights_BR(prompts))
    capped = {f"capped/{name}": share for name, share in setup.composite.capped(scores, gated).items()}
    several = len({prompt.category for prompt in setup.prompts}) > 1
    by_category = setup.composite.by_category(gated, prompts) if several else {}
    means = {f"reward/{name}": mean for name, mean in by_category.items()}
    return replace(signal, metrics={**signal.metrics, **means, **capped})


def _repeated(setup: Setup, batch: Batch) -> list[Prompt]:
    """The prompt of each picture, group-major."""
    return [prompt for prompt in batch.prompts for _ in range(setup.group_size)]


def update(setup: Setup, state: PolicyState, batch: Batch, trajectory: Trajectory, signal: Signal, guard: NanGuard) -> Metrics:
    """Optimiser steps on one rollout, over the groups that have a signal, dealt out into `updates_per_rollout` mini-batches."""
    ids = [f"{prompt.id}/{sample}" for prompt in batch.prompts for sample in range(setup.group_size)]
    sampled = {"final latents": trajectory.final_BX, "log-probabilities": trajectory.log_probs_BS}
    if not guard.check(state.attempts + 1, sampled, ids).ok:
        state.attempts += 1
        return {"updates": 0.0, "updates_skipped": 1.0}
    kept_PG = signal.kept_B.view(len(batch.prompts), setup.group_size)
    groups = kept_PG.any(1).nonzero().flatten()
    if isinstance(setup.algorithm, NFT):
        trajectory = forward_process(setup, setup.algorithm, batch, trajectory, signal, groups, state.step + 1)
    collected: list[dict[str, Tensor]] = []
    skipped = 0
    for mini in groups.tensor_split(min(setup.updates_per_rollout, max(len(groups), 1))):
        if len(mini) == 0:
            continue
        metrics = accumulate(setup, batch, trajectory, signal, mini)
        if not collected and isinstance(setup.algorithm, GRPO):
            check_floor(setup.algorithm, metrics)
        norm = torch.nn.utils.clip_grad_norm_([parameter for _, parameter in state.named()], setup.max_grad_norm)
        state.attempts += 1
        finite = guard.check(state.attempts, {"loss": metrics["loss"], "grad_norm": norm}, ids)
        if finite.ok:
            state.update()
            collected.append({**metrics, "grad_norm": norm.detach()})
        else:
            skipped += 1
            state.optimiser.zero_grad(set_to_none=True)
    return {**_means(collected), "updates": float(len(collected)), "updates_skipped": float(skipped)}


def accumulate(setup: Setup, batch: Batch, trajectory: Trajectory, signal: Signal, groups: Tensor) -> dict[str, Tensor]:
    """Gradients of the mean loss over the samples with a signal of some groups; returns metrics averaged alike.

    A backward takes whole groups, so that one prefix pass serves all samples of a prompt.
    """
    passes = _passes(setup, signal, groups)
    num_samples = sum(len(rows) for _, rows in passes)
    totals: dict[str, Tensor] = {}
    for some, rows in passes:
        loss, metrics = loss_of(setup, batch, trajectory, signal, some, rows)
        share = len(rows) / num_samples
        (loss * share).backward()
        for name, value in {"loss": loss.detach(), **metrics}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + share * value
    return totals


@torch.no_grad()
def forward_process(
    setup: Setup, algorithm: NFT, batch: Batch, trajectory: Trajectory, signal: Signal, groups: Tensor, step: int
) -> Trajectory:
    """The points that NFT trains on, with the velocities of the rollout's weights, which the update has not moved yet.

    The samples of a prompt share the noise: what it does to a gradient cancels, because their advantages sum to 0. That doubled
    the cosine of two independent gradients (docs/decisions.md).
    """
    one_a_prompt = keyed_noise(setup, batch.prompts, 1, "forward", step)

    def noise(where: int | Literal["init"]) -> Tensor:
        return one_a_prompt(where).repeat_interleave(setup.group_size, dim=0)

    points = algorithm.forward_points(trajectory, noise, shift=float(seeds.random(setup.seed, "sigmas", step).random()))
    if setup.sampler.policy_mode in ("hybrid", "both"):
        points = replace(points, offsets_BSX=torch.full_like(points.states_BSX, float("nan")))
    offsets_BSX = points.offsets_BSX
    for some, rows in _passes(setup, signal, groups):
        prefix = setup.adapter.prefix(batch.condition.select(some)).select(_group_of(some, rows, setup.group_size))
        here = take(points, rows)
        v_cond = stored_velocities(setup.adapter, prefix, here)
        points.velocities_BSX[rows] = v_cond.to(points.velocities_BSX)
        if offsets_BSX is not None:
            v_uncond = stored_velocities(setup.adapter, negative_prefix(setup, batch, rows), here)
            v_guided = guided(v_cond, v_uncond, setup.sampler.guidance, setup.sampler.rescale)
            offsets_BSX[rows] = offset(v_guided, v_cond).to(offsets_BSX)
    return points


def _passes(setup: Setup, signal: Signal, groups: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Groups of one forward, and the rows of their samples with a signal."""
    per_pass = len(groups) if setup.micro_batch is None else max(1, setup.micro_batch // setup.group_size)
    return [(some, _kept_rows(signal, some, setup.group_size)) for some in groups.split(max(per_pass, 1))]


def _group_of(groups: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Which of `groups`, in rising order, each row is a sample of."""
    return torch.searchsorted(groups, rows // group_size)


def _kept_rows(signal: Signal, groups: Tensor, group_size: int) -> Tensor:
    """Rows of the batch: the samples with a signal of some groups."""
    rows = (groups[:, None] * group_size + torch.arange(group_size)).flatten()
    return rows[signal.kept_B[rows]]


def loss_of(
    setup: Setup, batch: Batch, trajectory: Trajectory, signal: Signal, groups: Tensor, rows: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of samples `rows` of `groups`: one differentiable prefix pass of the prompts, one forward of rows x steps."""
    local_B = _group_of(groups, rows, setup.group_size)
    some = take(trajectory, rows)
    condition = batch.condition.select(groups)
    reference = None
    if setup.reference is not None:
        with torch.no_grad():
            frozen = with_transformer(setup.adapter, setup.reference)
            reference = stored_velocities(frozen, frozen.prefix(condition).select(local_B), some)
    velocities = stored_velocities(setup.adapter, setup.adapter.prefix(condition).select(local_B), some)
    unconditional = None
    if setup.sampler.policy_mode == "both":
        unconditional = stored_velocities(setup.adapter, negative_prefix(setup, batch, rows), some)
    advantages = signal.advantages_B[rows].to(velocities.device)
    return setup.algorithm.loss(some, advantages, setup.sampler, velocities, unconditional, reference)


def negative_prefix(setup: Setup, batch: Batch, rows: Tensor) -> Any:
    """The adapter's prefix of the negative prompt for samples `rows` of a guided batch."""
    if batch.negative is None:
        raise ValueError("the batch has no negative condition; prepare it with the sampler that is guided")
    return setup.adapter.prefix(batch.negative).select(negative_rows(batch.negative, rows // setup.group_size))


def check_floor(algorithm: GRPO, metrics: dict[str, Tensor]) -> None:
    """The log ratio before the first update of a rollout is rounding alone; a clip range below it would clip noise."""
    floor = metrics["floor"] = metrics["mean_abs_log_ratio"].clone()
    if math.isfinite(float(floor)) and float(floor) >= algorithm.clip_range:
        raise UserMistake(
            f"algorithm.clip_range {algorithm.clip_range:g} is not above the rounding of the log ratio at the old "
            f"weights, {float(floor):.1e} nats per element at this precision: raise it, or set precision to fp32"
        )


def _means(collected: list[dict[str, Tensor]]) -> Metrics:
    """Means over the updates of a step; the floor is the first update's alone. One synchronisation with the device."""
    means: Metrics = {}
    for name in dict.fromkeys(name for metrics in collected for name in metrics):
        values = torch.stack([metrics[name].float() for metrics in collected if name in metrics])
        means["log_ratio_floor" if name == "floor" else name] = float(values.max() if name == "max_ratio" else values.mean())
    return means
