"""What training carries from step to step: weights, their average, the optimiser; saved and restored as one.

And what a loop wants of the run it saves to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tastemaker.config import OldPolicyConfig, OptimiserConfig
from tastemaker.errors import Stopped
from tastemaker.runtime.checkpoint import load_matching
from tastemaker.runtime.distributed import ALONE, Ranks
from tastemaker.runtime.guard import NanGuard
from tastemaker.runtime.signals import StopRequest
from tastemaker.runtime.state import flatten, unflatten

Metrics = dict[str, float]
OF_SETTINGS = ("betas", "eps", "weight_decay")
"""Of AdamW's groups: what a resumed run has from its settings, which may have been changed, and not from its checkpoint."""


class RunLike(Protocol):
    """The part of `runtime.run.Run` that a training loop uses."""

    def log(self, step: int, metrics: Mapping[str, Any], stream: str = "metrics") -> None: ...
    def checkpoint(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Any: ...
    def incident(self, record: Mapping[str, Any]) -> None: ...


@dataclass
class PolicyState:
    """The trained parameters of `transformer` by name, live.

    `master` has those in float32 that the transformer has in less: they are optimised, and rounded into it after each update.
    Steps of a learning rate are far below the spacing of bfloat16, in which most of them, and all of an average, would be lost.
    `ema` holds their running average, and `old` those of an old policy that lags behind; each is empty without one.
    """

    transformer: nn.Module
    optimiser: torch.optim.Optimizer
    ema_decay: float | None
    warmup_steps: int = 0
    decay_from: float | None = None
    ema_ramp: float = 10.0
    done: float = 0.0
    """Share of the training's steps that is behind; `steps` counts it."""
    updates: int = 0
    attempts: int = 0
    """Updates that were made or skipped; the NaN guard counts bad ones in a row by this number."""
    over_floor: int = 0
    """Rollouts in a row whose clip range was below the rounding of the log ratio (`update.check_floor`)."""
    step: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)
    old_policy: OldPolicyConfig | None = None
    old: dict[str, Tensor] = field(default_factory=dict)
    master: dict[str, nn.Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        if self.ema_decay is not None and not self.ema:
            self.ema = self._copied()
        if self.old_policy is not None and not self.old:
            self.old = self._copied()

    @classmethod
    def fresh(cls, transformer: nn.Module, settings: OptimiserConfig, old_policy: OldPolicyConfig | None = None) -> PolicyState:
        """Before the first update, with AdamW over the parameters that want a gradient."""
        trained = {name: value for name, value in transformer.named_parameters() if value.requires_grad}
        master = {name: nn.Parameter(value.detach().float()) for name, value in trained.items() if value.dtype != torch.float32}
        adamw = torch.optim.AdamW(
            [master.get(name, value) for name, value in trained.items()],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        return cls(
            transformer,
            adamw,
            ema_decay=settings.ema_decay,
            warmup_steps=settings.warmup_steps,
            decay_from=settings.decay_from,
            ema_ramp=settings.ema_ramp,
            old_policy=old_policy,
            master=master,
        )

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.transformer.named_parameters() if value.requires_grad)

    def kept(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As `named`, in the precision in which they are optimised, averaged and saved."""
        return ((name, self.master.get(name, value)) for name, value in self.named())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is optimised; it has the gradients after `take_gradients`."""
        return [value for _, value in self.kept()]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Moves what a backward pass left in less precision to the weights in float32, where the passes of a step add up.

        Added up in bfloat16, what is below 1/256 of the sum so far would be lost.
        """
        live = dict(self.named())
        for name, master in self.master.items():
            gradient, live[name].grad = live[name].grad, None
            if gradient is not None:
                master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

    def drop_gradients(self) -> None:
        for _, value in self.named():
            value.grad = None
        self.optimiser.zero_grad(set_to_none=True)

    def update(self) -> None:
        """One optimiser step on the gradients at hand, then the average.

        The rate rises linearly over the warm-up, and falls linearly from `decay_from` on.
        """
        scale = min(1.0, (self.updates + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_from is not None:
            scale *= min(1.0, (1 - self.done) / (1 - self.decay_from))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.take_gradients()
        self.optimiser.step()
        self.drop_gradients()
        self._put(self.master)
        self.updates += 1
        if self.ema_decay is None:
            return
        # Early on a fixed decay would average mostly the start. So the weight of the past grows with the number of updates n:
        # update i weighs about i^(ema_ramp - 2), and the average is n / ema_ramp updates old.
        decay = min(self.ema_decay, (1 + self.updates) / (self.ema_ramp + self.updates))
        with torch.no_grad():
            for name, value in self.kept():
                self.ema[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def old_follows(self, step: int) -> None:
        """After `step`: old <- eta old + (1 - eta) live, eta = min(rise * step, decay). Without a lag nothing happens."""
        if self.old_policy is None:
            return
        eta = min(self.old_policy.rise * step, self.old_policy.decay)
        for name, value in self.kept():
            self.old[name].lerp_(value, 1 - eta)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the transformer has the averaged weights, which are the ones to evaluate and to ship."""
        return self._having(self.ema)

    def as_old(self) -> AbstractContextManager[None]:
        """Inside the block the transformer has the weights that rollouts are drawn with: the live ones unless these lag."""
        return self._having(self.old)

    @contextmanager
    def _having(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        if not weights:
            yield
            return
        live = {name: value.detach().clone() for name, value in self.named()}
        self._put(weights)
        try:
            yield
        finally:
            self._put(live)

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.kept()}

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        """Into the transformer, where it still has them: a LoRA may have been taken off meanwhile."""
        for name, parameter in self.named():
            if name in values:
                parameter.copy_(values[name])

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of a checkpoint."""
        tensors, _ = flatten(self.optimiser.state_dict())
        groups = {"policy": {name: value.detach() for name, value in self.kept()}, "optimiser": tensors}
        return groups | ({"ema": self.ema} if self.ema else {}) | ({"old": self.old} if self.old else {})

    def tensors_to_come(self) -> dict[str, dict[str, Tensor]]:
        """As `tensors`, with what AdamW has from its first update on; before it those have no data and are for sizes alone."""
        groups = self.tensors()
        if not self.optimiser.state:
            for row, (_, value) in enumerate(self.kept()):
                means = {name: torch.empty_like(value, device="meta") for name in ("exp_avg", "exp_avg_sq")}
                counted = {**means, "step": torch.empty((), dtype=torch.float32, device="meta")}
                groups["optimiser"] |= {f"state.{row}.{name}": tensor for name, tensor in counted.items()}
        return groups

    def plain(self) -> dict[str, Any]:
        """What of the state is no tensor; JSON."""
        counts = {"updates": self.updates, "attempts": self.attempts, "step": self.step, "over_floor": self.over_floor}
        return {**counts, "optimiser": flatten(self.optimiser.state_dict())[1]}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Any]) -> None:
        put_trained(self.transformer, tensors["policy"])
        for name, value in self.master.items():
            value.data.copy_(tensors["policy"][name])
        stated = [{name: group[name] for name in OF_SETTINGS} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(unflatten(tensors["optimiser"], plain["optimiser"]))
        for group, values in zip(self.optimiser.param_groups, stated, strict=True):
            group.update(values)
        self.updates, self.attempts, self.step = plain["updates"], plain["attempts"], plain["step"]
        self.over_floor = plain.get("over_floor", 0)
        for group, values in (("ema", self.ema), ("old", self.old)):
            saved = tensors.get(group, tensors["policy"])  # what is switched on for the resumption starts from here
            for name, value in values.items():
                value.copy_(saved[name])


def put_trained(transformer: nn.Module, weights: Mapping[str, Tensor], source: str = "checkpoint") -> None:
    """Loads a checkpoint's weights into the trainable parameters; UserMistake lists how names or shapes differ."""
    load_matching(_Named({n: value for n, value in transformer.named_parameters() if value.requires_grad}), weights, source)


class _Named(nn.Module):
    """Lets `load_matching` list the differences of the trained parameters alone, under their own dotted names."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self._named = dict(parameters)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value.detach() for name, value in self._named.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        for name, value in state.items():
            self._named[name].copy_(value)


def steps(
    state: PolicyState,
    run: RunLike,
    max_steps: int,
    checkpoint_every: int,
    guard: NanGuard,
    stop: StopRequest,
    deadline: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Iterator[int]:
    """Counts `state.step + 1` to `max_steps`; the body of the `for` is the step, and what it did is saved when it is due.

    Raises Stopped, after saving, when a stop was requested, or when `deadline` is past before the last step. What one process
    was asked for is done by all, at the same step.
    """
    for step in range(state.step + 1, max_steps + 1):
        state.done = (step - 1) / max_steps
        yield step
        state.step = step
        last = step == max_steps or any(ranks.gather(stop.requested or deadline()))
        if last or step % checkpoint_every == 0:
            run.checkpoint(step, state.tensors(), {**state.plain(), "guard": guard.state()})
        if last:
            if any(ranks.gather(stop.requested)):  # asked after the checkpoint, so that nobody leaves before it is there
                stop.requested = True
                stop.leave(f"checkpoint of step {step} saved")
            if step < max_steps:
                over = "budget.max_minutes are over"
                raise Stopped(f"{over}, step {step} of {max_steps} is saved; the same command goes on")
            return


def minutes_over(limit: float | None) -> Callable[[], bool]:
    """A deadline for `steps`: whether so many minutes have passed since now; None is never."""
    ends = time.monotonic() + 60 * limit if limit is not None else math.inf
    return lambda: time.monotonic() > ends


def frozen_copy(transformer: nn.Module) -> nn.Module:
    """The reference of a policy that changes the transformer's own weights."""
    return deepcopy(transformer).requires_grad_(False).eval()
