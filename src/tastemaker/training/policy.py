"""The one loop that trains a policy: prompts -> rollout -> scores -> signal -> update, the same for every algorithm and task.

A step is drawn in chunks of whole groups and one layout (`training/batch.py`). Judges work in the background: the chunks drawn
so far are judged while the next one is drawn.

Everything it needs is handed in (`Setup`), so that the loop knows neither files nor settings. All randomness is keyed by (seed,
step, prompt id, sample), so a step can be repeated, resumed and spread over processes without changing its result: each process
draws, judges and learns from its share, and what is compared, counted or decided is that of the whole step (`setup.ranks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tastemaker.errors import ServiceFailed
from tastemaker.models.adapter import decode_all
from tastemaker.rewards.composite import commonest_reasons, missing_share
from tastemaker.rewards.pipeline import ScoringPipeline, joined
from tastemaker.rollout import denoise
from tastemaker.runtime import seeds
from tastemaker.runtime.device import attention_with_gradients
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.signals import StopRequest
from tastemaker.training.batch import Batch, Part, chunks_of, prepare
from tastemaker.training.ranks import of_step
from tastemaker.training.setup import Setup, keyed_noise
from tastemaker.training.state import PolicyState, RunLike, steps
from tastemaker.training.update import update
from tastemaker.types import Prompt, Scores, Signal, Trajectory, group_index


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
    """Steps `state.step + 1` to `max_steps`. Raises Stopped, after saving, when a stop is requested or `deadline` past."""
    with pipeline(setup) as scoring:
        for step in steps(state, run, max_steps, checkpoint_every, guard, stop, deadline, setup.ranks):
            began = time.perf_counter()
            now = at_step(setup, step)
            batch = prepare(now, step)
            mine = batch.share(now.ranks.rank, now.ranks.count)
            with state.as_old():
                trajectory, images, signal = collect(now, batch, mine, step, scoring, partial(finite, now, mine, state, guard))
            images = images.cpu()  # judged; on the device they would lie beside the backward pass
            with attention_with_gradients(next(now.adapter.transformer.parameters())):
                metrics = update(now, state, mine, trajectory, signal, guard)
            state.old_follows(step)
            seconds = time.perf_counter() - began
            run.log(step, {**signal.metrics, **metrics, "images": len(signal.kept_B), "seconds": seconds})
            after_step(step, images, mine)
            del trajectory, images, signal  # not kept until the next step is drawn


def pipeline(setup: Setup) -> ScoringPipeline:
    """One for the whole run: a thread of its own, with room for all chunks of a step, each of which holds a prompt at least."""
    score = nobody if setup.composite is None else setup.composite.score
    return ScoringPipeline(score, deadline=setup.scoring_deadline, depth=setup.prompts_per_step)


def nobody(images: Tensor, prompts: Sequence[Prompt]) -> Scores:
    raise ValueError("pictures were handed over to be judged, but the setup has no composite")


def at_step(setup: Setup, step: int) -> Setup:
    """Every `unguided_every`-th step samples, and so learns, without guidance; a step of distillation has its own states."""
    sampler = setup.sampler
    if setup.states is not None:
        drawn = seeds.random(setup.seed, "states", step).permutation(len(sampler.sigmas) - 1)[: setup.states]
        sampler = replace(sampler, steps=tuple(sorted(map(int, drawn))))
    if setup.unguided_every is not None and step % setup.unguided_every == 0:
        sampler = replace(sampler, guidance=1.0)
    return replace(setup, sampler=sampler)


def finite(setup: Setup, batch: Batch, state: PolicyState, guard: NanGuard, trajectory: Trajectory, images: Tensor) -> bool:
    """The guard's verdict on what all processes drew for the next update, before any score of it counts."""
    drawn = {"final latents": trajectory.final_BX, "pictures": images}
    if setup.sampler.kind != "ode":  # whose steps have no probability
        drawn["log-probabilities"] = trajectory.log_probs_BS
    return guard.check(state.attempts + 1, drawn, batch.sample_ids(setup.group_size)).ok


Check = Callable[[Trajectory, Tensor], bool]
"""Looks at a trajectory and its pictures; see `finite`."""


def collect(
    setup: Setup,
    batch: Batch,
    mine: Batch,
    step: int,
    scoring: ScoringPipeline,
    check: Check = lambda trajectory, images: True,
) -> tuple[Trajectory, Tensor, Signal]:
    """What a step learns from: pictures drawn and judged. Where teachers say what is to be learnt, no picture is decoded.

    Trajectory and pictures are of the share that is `mine`, the signal is that of the whole `batch`.
    """
    if setup.teachers is not None:
        trajectory = _one_trajectory([rollout(setup, part, step) for part in mine.parts])
        images = torch.empty(0, 3, setup.height, setup.width)
        check(trajectory, images)
        every_B = torch.ones(len(batch.prompts) * setup.group_size)
        return trajectory, images, Signal(every_B, every_B.bool())
    trajectory, images, scores = draw_and_judge(setup, mine, step, scoring, check)
    signal = signal_of(setup, batch, scores)
    hidden = scoring.hidden_latency()
    if max(setup.chunks, len(mine.parts)) > 1:  # else nothing is drawn while a judge works
        signal = replace(signal, metrics={**signal.metrics, "hidden_latency": hidden})
    return trajectory, images, signal


def draw_and_judge(
    setup: Setup,
    batch: Batch,
    step: int,
    scoring: ScoringPipeline,
    check: Check = lambda trajectory, images: True,
) -> tuple[Trajectory, Tensor, Scores]:
    """Trajectory and pictures of a batch, and the scores of the whole step (before gates).

    While a chunk is drawn, those before it are judged; then all processes meet. Scores that are missing where `check` finds the
    drawing at fault are held against no judge.
    """
    trajectories, images, handles = [], [], []
    with _attention_of_update(setup):
        for chunk in chunks_of(batch, setup.chunks):
            trajectories.append(rollout(setup, chunk, step))
            images.append(decode_all(setup.adapter, trajectories[-1].final_BX, setup.height, setup.width, setup.max_batch))
            handles.append(scoring.submit(f"{step}/{chunk.first}", images[-1], _repeated(setup, chunk.prompts)))
        trajectory, pictures = _one_trajectory(trajectories), torch.cat(images) if len(images) > 1 else images[0]
        fine = check(trajectory, pictures)
        scores = joined([scoring.collect(handle) for handle in handles])
    scores = of_step(setup.ranks, scores, batch.places, setup.group_size)
    return trajectory, pictures, within_budget(setup, scores) if fine else scores


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


def _attention_of_update(setup: Setup) -> AbstractContextManager[None]:
    """Log-probabilities are computed as the update will, or the ratio would begin with the rounding between two ways.

    Around drawing and judging, because torch has one way of attention for all threads: switched to and fro, the rounding of a
    local judge's scores would hang on what is drawn at that moment.
    """
    plain = setup.sampler.kind != "ode"
    return attention_with_gradients(next(setup.adapter.transformer.parameters())) if plain else nullcontext()


def rollout(setup: Setup, chunk: Part, step: int) -> Trajectory:
    return denoise(
        setup.adapter,
        chunk.condition,
        chunk.negative,
        group_size=setup.group_size,
        sampler=setup.sampler,
        noise=keyed_noise(setup, chunk.prompts, setup.group_size, "rollout", step, places=chunk.places),
        max_batch=setup.max_batch,
    )


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
    composite, algorithm = setup.judges, setup.comparing
    prompts = _repeated(setup, batch.prompts)
    gated = composite.gated(scores, prompts)
    groups = group_index(len(prompts) // setup.group_size, setup.group_size)
    signal = algorithm.signal(gated, groups, composite.counting_BR(gated, prompts))
    capped = {f"capped/{name}": share for name, share in composite.capped(scores, gated).items()}
    tasks, categories = {prompt.task for prompt in setup.prompts}, {prompt.category for prompt in setup.prompts}
    several = len(tasks) > 1 or len(categories) > 1
    by_category = composite.by_category(gated, prompts, with_task=len(tasks) > 1) if several else {}
    means = {f"reward/{name}": mean for name, mean in by_category.items()}
    return replace(signal, metrics={**signal.metrics, **means, **capped})


def _repeated(setup: Setup, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompt of each picture, group-major."""
    return [prompt for prompt in prompts for _ in range(setup.group_size)]
