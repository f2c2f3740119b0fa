"""Levers of the update: batched steps, one differentiable prefix, no guidance branch, old policy reused, silent groups dropped.

Every way ends with the same gradient norm and AdamW step, at rate 0 so that the weights stay and rounds can be compared. What
must agree are the gradients of all parameters and the mean |log ratio| to the rollout, in nats per element, which is 0 for a
way that evaluates the policy of the rollout. Guidance mode "both" evaluates that same policy but differentiates another
function: ways with it agree with ours on the ratio, and among themselves on the gradients too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.plain import without_shared_prefix
from benchmarks.timing import Contest, Outcome, Way
from benchmarks.workload import SEED, Workload
from tastemaker.config import TrainConfig
from tastemaker.flow.guidance import guided, offset
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.rewards.reward import FunctionReward
from tastemaker.rollout import denoise, negative_rows, stored_velocities
from tastemaker.training.batch import Batch, Part
from tastemaker.training.setup import Setup
from tastemaker.training.start import make_setup
from tastemaker.training.update import accumulate
from tastemaker.types import Signal, Trajectory, group_index

UPDATE_TARGET = 3.0
"""At least so many times as fast as the plain way."""
RATIO = "ratio"
"""Name of the outcome that ways with and without guidance in the update share."""
RATIO_TOLERANCE = 1e-5
"""Nats per element; a tenth of the default clip range."""


@dataclass(frozen=True, eq=False)
class Update:
    """One rollout that waits for its update."""

    setup: Setup
    part: Part
    trajectory: Trajectory
    signal: Signal
    optimiser: torch.optim.Optimizer

    @property
    def rows(self) -> Tensor:
        """The prompt of each sample."""
        return group_index(len(self.part.prompts), self.setup.group_size)

    @property
    def kept_groups(self) -> Tensor:
        return self.signal.kept_B.view(len(self.part.prompts), -1).any(1).nonzero().flatten()

    def finish(self, backward: Callable[[], Tensor], scale: float = 1.0) -> Outcome:
        """Gradients by `backward`, which returns the mean |log ratio|; then what follows in every way."""
        self.optimiser.zero_grad(set_to_none=True)
        log_ratio = backward()
        named = [(n, p) for n, p in self.setup.adapter.transformer.named_parameters() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_([p for _, p in named], max_norm=1e9)
        self.optimiser.step()
        gradients = {f"gradient of {name}": p.grad if scale == 1 else p.grad * scale for name, p in named}
        return {RATIO: 1 + log_ratio, **gradients}


def start(workload: Workload, adapter: QwenImage21Adapter | None = None, silent: int = 0) -> Update:
    """Draws a rollout with the training sampler and gives its samples advantages; the first `silent` groups have none."""
    adapter, size = adapter or workload.adapter, workload.size
    setup = make_setup(
        _settings(workload), adapter, workload.prompts, {"any": _never_asked()}, workload.embeddings, height=SIDE, width=SIDE
    )
    adapter.transformer.requires_grad_(True)
    optimiser = torch.optim.AdamW(adapter.transformer.parameters(), lr=0.0)
    condition, negative = (
        found.to(workload.device)
        for found in (workload.embeddings.condition(workload.prompts), workload.embeddings.negative("", workload.prompts))
    )
    trajectory = denoise(
        adapter, condition, negative, group_size=size.group, sampler=setup.sampler, noise=workload.noise, max_batch=None
    )
    advantages = torch.randn(size.prompts, size.group, generator=torch.Generator().manual_seed(SEED))
    advantages[:silent] = 0
    kept = (torch.arange(size.prompts) >= silent).repeat_interleave(size.group)
    signal = Signal(advantages.flatten(), kept)
    return Update(setup, Part(workload.prompts, condition, negative), trajectory, signal, optimiser)


def _settings(workload: Workload) -> TrainConfig:
    size = workload.size
    return TrainConfig(
        name="benchmark",
        model="miniature",
        data={"prompts": "miniature"},
        rewards=({"name": "any"},),
        rollout={
            **{"prompts": size.prompts, "group_size": size.group, "steps": size.steps},
            **{"window_size": size.trained, "guidance": size.guidance},
        },
        algorithm={"clip_range": 1e-2, "velocity_kl": 0.0},
    )


def _never_asked() -> FunctionReward:
    """Scores are given to the update; no judge is needed."""
    return FunctionReward("any", lambda picture, truth: 0.0)


def update_contest(workload: Workload) -> Contest:
    """Ours against ours without one lever, and against the plain way."""
    update = start(workload)
    both = Way("with guidance branch (mode both)", lambda: in_mode_both(update), compared=RATIO, tolerance=RATIO_TOLERANCE)
    others = [
        Way("without batched steps", lambda: step_by_step(update)),
        Way("without shared prefix", lambda: whole_sequence(update)),
        both,
        Way("without reuse of the old policy", lambda: with_old_pass(update)),
        Way("plain way", lambda: plain(update), like=both, target=UPDATE_TARGET),
        Way("plain way + old log-prob pass", lambda: plain(update, old_pass=True), like=both, target=UPDATE_TARGET),
    ]
    return _contest(workload, workload.title, Way("tastemaker", lambda: ours(update)), others)


def silence_contest(workload: Workload) -> Contest:
    """Half of the groups have no signal, as when their pictures score alike."""
    update = start(workload, silent=workload.size.prompts // 2)
    title = f"{workload.title}, half of the groups silent"
    others = [Way("without dropping them", lambda: all_groups(update))]
    return _contest(workload, title, Way("tastemaker", lambda: ours(update)), others)


def compile_contest(workload: Workload, compiled: QwenImage21Adapter) -> Contest:
    fast, slow = start(workload, compiled), start(workload)
    title, ways = workload.title, [Way("without compiled blocks", lambda: ours(slow))]
    return _contest(workload, title, Way("tastemaker, compiled blocks", lambda: ours(fast)), ways)


def _contest(workload: Workload, title: str, ours: Way, others: list[Way]) -> Contest:
    return Contest(f"update, {title}", "samples/s", workload.size.images, ours, others)


def ours(update: Update) -> Outcome:
    return update.finish(lambda: _accumulate(update, update.kept_groups))


def all_groups(update: Update) -> Outcome:
    """A mean over all groups is smaller than one over those with a signal."""
    everyone = torch.arange(len(update.part.prompts))
    # As if no group had been found silent: their advantages are 0, so they cost a pass and add nothing to the gradient.
    undropped = replace(update, signal=replace(update.signal, kept_B=torch.ones_like(update.signal.kept_B)))
    return update.finish(lambda: _accumulate(undropped, everyone), scale=len(everyone) / len(update.kept_groups))


def in_mode_both(update: Update) -> Outcome:
    """The unconditional branch is evaluated and differentiated as well."""
    return ours(replace(update, setup=_both(update.setup)))


def with_old_pass(update: Update) -> Outcome:
    """The old policy is evaluated again before the update, as if the rollout had kept only its states."""

    def backward() -> Tensor:
        adapter, trajectory = update.setup.adapter, update.trajectory
        with torch.no_grad():
            prefix = adapter.prefix(update.part.condition).select(update.rows)
            again = replace(trajectory, velocities_BSX=stored_velocities(adapter, prefix, trajectory))
        return _accumulate(replace(update, trajectory=again), update.kept_groups)

    return update.finish(backward)


def step_by_step(update: Update) -> Outcome:
    """Each stored step is a forward of its own, all from one prefix."""

    def backward() -> Tensor:
        adapter = update.setup.adapter
        prefix = adapter.prefix(update.part.condition).select(update.rows)
        found = [_loss(update, one, stored_velocities(adapter, prefix, one)) for one in single_steps(update.trajectory)]
        torch.stack([loss for loss, _ in found]).mean().backward()
        return torch.stack([log_ratio for _, log_ratio in found]).mean()

    return update.finish(backward)


def whole_sequence(update: Update) -> Outcome:
    """Prompt tokens are recomputed for each sample and step."""

    def backward() -> Tensor:
        adapter = without_shared_prefix(update.setup.adapter)  # type: ignore[arg-type]
        prompts = adapter.prefix(update.part.condition).select(update.rows)
        loss, log_ratio = _loss(update, update.trajectory, stored_velocities(adapter, prompts, update.trajectory))
        loss.backward()
        return log_ratio

    return update.finish(backward)


def plain(update: Update, old_pass: bool = False) -> Outcome:
    """Each step replayed alone on whole sequences, both guidance branches with gradient; `old_pass`: and once without."""
    both = replace(update, setup=_both(update.setup))

    def backward() -> Tensor:
        adapter = without_shared_prefix(both.setup.adapter)  # type: ignore[arg-type]
        prompts = adapter.prefix(both.part.condition).select(both.rows)
        assert both.part.negative is not None
        negatives = adapter.prefix(both.part.negative).select(negative_rows(both.part.negative, both.rows))
        log_ratios = []
        for one in single_steps(both.trajectory):
            if old_pass:
                with torch.no_grad():
                    pair = [stored_velocities(adapter, prefix, one) for prefix in (prompts, negatives)]
                    push = offset(guided(pair[0], pair[1], both.setup.sampler.guidance), pair[0])
                one = replace(one, velocities_BSX=pair[0], offsets_BSX=push)
            v_cond, v_uncond = (stored_velocities(adapter, prefix, one) for prefix in (prompts, negatives))
            loss, log_ratio = _loss(both, one, v_cond, v_uncond)
            (loss / len(both.trajectory.steps)).backward()
            log_ratios.append(log_ratio)
        return torch.stack(log_ratios).mean()

    return both.finish(backward)


def single_steps(trajectory: Trajectory) -> list[Trajectory]:
    """The same samples with one stored step each."""

    def only(s: int) -> Trajectory:
        offsets = trajectory.offsets_BSX
        return replace(
            trajectory,
            steps=(trajectory.steps[s],),
            states_BSX=trajectory.states_BSX[:, s : s + 1],
            next_states_BSX=trajectory.next_states_BSX[:, s : s + 1],
            log_probs_BS=trajectory.log_probs_BS[:, s : s + 1],
            offsets_BSX=None if offsets is None else offsets[:, s : s + 1],
            velocities_BSX=trajectory.velocities_BSX[:, s : s + 1],
        )

    return [only(s) for s in range(len(trajectory.steps))]


def _accumulate(update: Update, groups: Tensor) -> Tensor:
    """The gradient of tastemaker's own training step."""
    return accumulate(update.setup, Batch((update.part,)), update.trajectory, update.signal, groups)["mean_abs_log_ratio"]


def _loss(update: Update, trajectory: Trajectory, v_cond: Tensor, v_uncond: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Loss, and mean |log ratio|, of all samples."""
    setup, advantages_B = update.setup, update.signal.advantages_B.to(v_cond.device)
    loss, metrics = setup.algorithm.loss(trajectory, advantages_B, setup.sampler, v_cond, v_uncond)
    return loss, metrics["mean_abs_log_ratio"]


def _both(setup: Setup) -> Setup:
    return replace(setup, sampler=replace(setup.sampler, mode="both"))
