"""Muon for every matrix and convolution, AdamW for the rest: what makes a base in an hour of CPU possible.

torch.optim.Muon takes matrices only; the VAE is convolutions, so the few lines are here, with kernels read as matrices of
(out channels) x (in channels * height * width).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, approximately: singular values end within about 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then orthogonalisation; the step has spectral norm `lr * max(1, rows / columns) ** 0.5`."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(orthogonalise(update).reshape(parameter.shape), alpha=-group["lr"] * scale)


class Optimiser:
    """Muon and AdamW behind one step, with a warm-up and a linear decay over the last part."""

    def __init__(
        self, matrices: list[nn.Parameter], rest: list[nn.Parameter], *, muon_lr: float, adam_lr: float, decay_from: float
    ):
        self.parts = [Muon(matrices, muon_lr), torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.99), weight_decay=0.01)]
        self.rates = [muon_lr, adam_lr]
        self.parameters = [*matrices, *rest]
        self.decay_from = decay_from

    def step(self, fraction_done: float, step: int, warmup: int = 50) -> None:
        scale = min(1.0, (step + 1) / warmup) * min(1.0, max(0.01, (1 - fraction_done) / (1 - self.decay_from)))
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * scale
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of both optimisers' state, flat, for a safetensors file."""
        flat = {}
        for index, part in enumerate(self.parts):
            for number, entry in part.state_dict()["state"].items():
                flat.update({f"{index}.{number}.{key}": torch.as_tensor(value).contiguous() for key, value in entry.items()})
        return flat

    def restore(self, flat: dict[str, Tensor]) -> None:
        for index, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in flat.items():
                where, number, key = name.split(".", 2)
                if int(where) == index:
                    state.setdefault(int(number), {})[key] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def split(module: nn.Module, never: tuple[str, ...] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable matrices (and kernels) of the hidden layers, and everything else: vectors, and what is named in `never`."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter[0].numel() > 1
        (matrices if hidden and not name.startswith(never) else rest).append(parameter)
    return matrices, rest
