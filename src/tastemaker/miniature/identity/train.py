"""Trains the identity embedder: two portraits of one face are pulled together, all other faces of the batch pushed apart.

    loss = -log softmax_j(cos(a_i, b_j) / T)[i], both ways (InfoNCE)

Both views of a face differ by edits that keep identity and by what a model's drawing adds (blur, noise, JPEG). Faces come in
families that share both descriptions, so that hair, glasses or clothing never tell two of them apart: only the face can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.evaluation.bootstrap import cluster_interval
from tastemaker.evaluation.statistics import Estimate, proportion
from tastemaker.miniature.identity.network import IdentityNet, as_input, embed, load, save
from tastemaker.miniature.raters.corruptions import blur, jpeg, noise
from tastemaker.miniature.world.description import Portrait
from tastemaker.miniature.world.edits import EditPair
from tastemaker.miniature.world.layout import sample_layout
from tastemaker.miniature.world.renderer import render
from tastemaker.miniature.world.splits import sample, sample_edit
from tastemaker.runtime import checkpoint, seeds
from tastemaker.runtime import folder as disk
from tastemaker.runtime.metrics import StepLog

BAR = 0.97
_FAMILY = 8  # faces that share both descriptions
_WORN = 0.4  # share of views that are blurred, noisy or compressed
_STATE = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
_KINDS = ("hair", "glasses", "smile", "recolour", "restyle", "compound")


@dataclass(frozen=True)
class Plan:
    """`families` of 8 faces a step, two portraits of each."""

    steps: int = 2000
    families: int = 8
    lr: float = 2e-3
    temperature: float = 0.07
    seed: int = 0
    save_every: int = 200


def contrastive_loss(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """(B,) in nats: how surprising it is, among all faces of the batch, that view i of one side is view i of the other."""
    logits_BB = first_BD @ second_BD.T / temperature
    right_B = torch.arange(len(logits_BB), device=logits_BB.device)
    one_way = F.cross_entropy(logits_BB, right_B, reduction="none")
    return (one_way + F.cross_entropy(logits_BB.T, right_B, reduction="none")) / 2


def train(net: IdentityNet, plan: Plan, folder: Path, say: Callable[[str], None] = lambda text: None) -> IdentityNet:
    """All steps of the plan, from the last checkpoint of `folder` on; log.jsonl has a line a step."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.lr, weight_decay=0.01)
    start = 0
    if checkpoint.steps(folder / "steps"):
        saved = checkpoint.load(folder / "steps")
        net.load_state_dict(saved.tensors["model"])
        start = saved.step
        for name, parameter in net.named_parameters():
            optimiser.state[parameter] = {key: saved.tensors["optimiser"][f"{name}.{key}"] for key in _STATE}
    disk.make_folder(folder)
    log = StepLog(folder / "log.jsonl", contiguous=True)
    log.cut(start)
    net.train()
    for step in range(start + 1, plan.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * min(1.0, step / 50) * min(1.0, max(0.01, 2 * (1 - step / plan.steps)))
        first, second = views(plan, step)
        first_BD, second_BD = net(as_input(np.concatenate([first, second]))).chunk(2)
        loss = contrastive_loss(first_BD, second_BD, plan.temperature).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        log.append(step, {"loss": float(loss.detach())})
        if step % 50 == 0:
            say(f"identity step {step} of {plan.steps}: loss {float(loss.detach()):.3f}")
        if step % plan.save_every == 0 or step == plan.steps:
            state = {f"{n}.{k}": optimiser.state[p][k] for n, p in net.named_parameters() for k in _STATE}
            checkpoint.save(folder / "steps", step, {"model": net.state_dict(), "optimiser": state}, {})
            checkpoint.prune(folder / "steps", 1)
    return net.eval()


def views(plan: Plan, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 (families * 8, 64, 64, 3): row i of both is one face. Keyed by seed and step."""
    first, second = [], []
    for family in range(plan.families):
        rng = seeds.random(plan.seed, "identity", step, family)
        one, other = _two_looks(rng)
        for _ in range(_FAMILY):
            layout = sample_layout(one, rng)
            first.append(_worn(render(one, layout), rng))
            second.append(_worn(render(other, layout), rng))
    return np.stack(first), np.stack(second)


def identity_auc(net: IdentityNet, pairs: int, seed: int = 0, split: str = "eval") -> Estimate:
    """How often an edit that keeps the face is nearer to its source than the same edit of another face, over held-out edits.

    1 is perfect, 0.5 chance. Every pair is compared with the other faces of its own edit only, so nothing but the face helps;
    whole edits are redrawn for the interval. The other faces are random ones, some of them by chance nearly the same.
    """
    edits = [_portrait_edit(seeds.random(seed, "auc", number), split) for number in range(pairs)]
    wins = np.array([_wins(net, pair, seeds.random(seed, "others", number)) for number, pair in enumerate(edits)])
    if (wins == 1).all():  # redrawn edits are all alike; as a share of edits without a mistake it still has an interval
        return proportion(wins)
    value, low, high = cluster_interval(lambda counts: (counts @ wins) / counts.sum(1), pairs, seed=seed)
    return Estimate(pairs, value, low, high)


def build_identity(folder: Path, plan: Plan | None = None, say: Callable[[str], None] = lambda text: None) -> Path:
    """Trains what `folder` does not hold yet; returns the file of the weights, beside its card."""
    plan, path = plan or Plan(), folder / "identity.safetensors"
    if not path.exists():
        torch.manual_seed(plan.seed)
        save(train(IdentityNet(), plan, folder / "identity-training", say), path)
    found = identity_auc(load(path), 400)
    told = f"AUC {found.value:.4f} ({found.low:.4f} to {found.high:.4f}), n = {found.n} held-out edits; bar {BAR}"
    (folder / "README.md").write_text(_CARD.format(told=told, steps=plan.steps), encoding="utf-8")
    say(told)
    return path


_CARD = """---
license: apache-2.0
---
# tastemaker's identity embedder

0.24 M parameters that tell cartoon faces of the miniature apart, trained in {steps} steps on drawings of its training split;
good for nothing else. How often an edit that keeps the face is nearer to its source than the same edit of another face:

{told}.

An AUC of exactly 1 has the interval of the share of edits without any mistake. Rebuilt by
`python -m tastemaker.miniature.identity`.
"""


def _wins(net: IdentityNet, pair: EditPair, rng: np.random.Generator) -> float:
    """Share of 16 other faces under the same edit that are less like the source than the edited source is."""
    others = [sample_layout(pair.edit.target, rng) for _ in range(16)]
    pictures = [render(pair.edit.source, pair.source_layout), render(pair.edit.target, pair.target_layout)]
    vectors = embed(net, np.stack(pictures + [render(pair.edit.target, other) for other in others]))
    own, strange = float(vectors[0] @ vectors[1]), vectors[2:] @ vectors[0]
    return float((own > strange).mean() + 0.5 * (own == strange).mean())


def _portrait_edit(rng: np.random.Generator, split: str) -> EditPair:
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    return sample_edit(split, rng, kind, "portrait")


def _two_looks(rng: np.random.Generator) -> tuple[Portrait, Portrait]:
    """Before and after an edit, or two looks of one skin that share nothing else."""
    is_edit = rng.random() < 0.5
    if is_edit:
        edit = _portrait_edit(rng, "train").edit
        one, other = edit.source, edit.target
    else:
        one, other = sample("train", rng, "portrait"), sample("train", rng, "portrait")
    assert isinstance(one, Portrait) and isinstance(other, Portrait)
    return one, other if is_edit else replace(other, skin=one.skin)


def _worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= _WORN:
        return picture
    way = (blur, noise, jpeg)[int(rng.integers(3))]
    return way(picture, float(rng.uniform(0, 0.3)), rng)
