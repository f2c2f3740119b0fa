"""Trains the miniature's base: one transformer for text-to-image and editing, by flow matching, with its text encoder.

Each prompt's prefix (text and source tokens) is computed once and shared by several noise levels of its target, through the
same adapter the rest of the house uses: the target's tokens are a third of the sequence, so this is most of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers import QwenImage21Pipeline
from torch import Tensor, nn

from tastemaker.flow.loss import flow_matching_loss
from tastemaker.miniature.builder.optimiser import Optimiser, split
from tastemaker.miniature.builder.parts import SIDE
from tastemaker.models.qwen_image21 import QwenImage21Adapter
from tastemaker.runtime.device import attention_with_gradients
from tastemaker.runtime.distributed import ALONE, Ranks
from tastemaker.types import Condition

DROP_TEXT = 0.1
"""Share of examples whose words are dropped (the source picture stays), so that guidance has something to guide from."""
SIGMA_MEAN, SIGMA_STD = 0.4, 1.0
"""Noise levels are logit-normal, leaning towards noise, where layout is decided."""
EMA_DECAY = 0.998
_GRID = (1, SIDE // 16, SIDE // 16)


@dataclass(frozen=True)
class Examples:
    """What one task is learnt from, N rows. Token ids are those of the pipeline's whole template, system part included."""

    token_ids: Sequence[Sequence[int]]
    blank_ids: Sequence[int]
    """The template around a dropped text."""
    targets: Tensor
    """(N, 16, 64) normalised latents."""
    sources: Tensor | None = None
    """(N, 16, 64) normalised latents of the source picture, for edits."""
    source_pictures: np.ndarray | None = None
    """(N, 64, 64, 3) uint8: the vision tower reads the same picture."""

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and which of them lose their words. The longest row is always one of `cap` tokens, and never loses them.

        So every batch of a task has one shape, which a compiled model wants; the few longer texts are left out.
        """
        rows = np.concatenate([rng.choice(self._by_length[1], 1), rng.choice(self._by_length[0], count - 1, replace=False)])
        drop = rng.random(count) < DROP_TEXT
        drop[0] = False
        return rows, drop

    @cached_property
    def _by_length(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of at most `cap` tokens, and rows of exactly so many; `cap` is what 95% of the texts keep to."""
        lengths = np.array([len(ids) for ids in self.token_ids])
        cap = np.quantile(lengths, 0.95, method="lower")
        return np.flatnonzero(lengths <= cap), np.flatnonzero(lengths == cap)


class BaseTrainer:
    """Transformer and text encoder behind one loss; `ema` holds the averaged weights that ship.

    Passes are in `dtype`; what is optimised and averaged is float32. Of several processes each has its own part of the batch.
    """

    def __init__(
        self,
        adapter: QwenImage21Adapter,
        *,
        draws: int,
        muon_lr: float,
        adam_lr: float,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
    ):
        pipeline: QwenImage21Pipeline = adapter.pipeline
        self.adapter, self.draws, self.device, self.ranks = adapter, draws, adapter.transformer.device, ranks
        self.text_model = pipeline.text_encoder.model.requires_grad_(True).train()
        self.module = nn.ModuleDict({"transformer": pipeline.transformer, "text": self.text_model})
        pipeline.transformer.requires_grad_(True).train()
        self.skip = pipeline._drop_idx
        self.pad = pipeline.processor.tokenizer.pad_token_id
        self.image_token = pipeline._img_token_id
        self.kept = self.module if dtype == torch.float32 else deepcopy(self.module)
        if self.kept is not self.module:
            adapter.dtype = dtype
            for parameter in self.module.parameters():  # and no buffer: positions stay float32, as when such a model is opened
                parameter.data = parameter.data.to(dtype)
        hidden, rest = split(self.kept["transformer"], never=("img_in", "proj_out", "time_text_embed", "txt_in.in_layer"))
        text_hidden, text_rest = split(self.kept["text"], never=("language_model.embed_tokens", "visual"))
        self.optimiser = Optimiser(hidden + text_hidden, rest + text_rest, muon_lr=muon_lr, adam_lr=adam_lr, decay_from=0.5)
        self.ema = {name: value.detach().clone() for name, value in self.kept.named_parameters()}

    def embed(self, token_ids: Sequence[Sequence[int]], pictures: np.ndarray | None) -> Condition:
        """The pipeline's encoding of whole templates, with gradient. Right padding: a causal encoder never sees it."""
        length = max(map(len, token_ids))
        ids = torch.tensor([[*row, *[self.pad] * (length - len(row))] for row in token_ids])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in token_ids])
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == self.image_token).int()}
        if pictures is not None:
            inputs["pixel_values"] = vision_patches(pictures)
            inputs["image_grid_thw"] = torch.tensor([[1, SIDE // 16, SIDE // 16]] * len(pictures))
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        handle = self.text_model.language_model.norm.register_forward_hook(lambda module, args, output: args[0])
        try:
            hidden = self.text_model(**inputs).last_hidden_state
        finally:
            handle.remove()
        mask, slots = inputs["attention_mask"].bool(), ids.to(self.device) == self.image_token
        tensors = {"embeds": hidden[:, self.skip :], "mask": mask[:, self.skip :], "slots": slots[:, self.skip :]}
        tensors["embeds"] = tensors["embeds"] * tensors["mask"][..., None]
        return Condition(tensors, layout=(_GRID,) if pictures is None else (_GRID, _GRID))

    def loss(self, examples: Examples, rows: np.ndarray, drop: np.ndarray, noise: torch.Generator) -> Tensor:
        ids = [examples.blank_ids if gone else examples.token_ids[row] for row, gone in zip(rows, drop, strict=True)]
        pictures = None if examples.source_pictures is None else examples.source_pictures[rows]
        condition = self.embed(ids, pictures)
        if examples.sources is not None:
            sources = examples.sources[torch.from_numpy(rows)].to(self.device).float()
            condition = Condition({**condition.tensors, "sources": sources}, condition.layout)
        copies = torch.arange(len(rows)).repeat_interleave(self.draws)
        prefix = self.adapter.prefix(condition).select(copies)
        data = examples.targets[torch.from_numpy(rows)].to(self.device).float()[copies]
        epsilon = torch.randn(data.shape, generator=noise).to(self.device)
        sigma = self._sigmas(len(rows), noise).to(self.device)
        at = sigma.view(-1, 1, 1)
        velocity = self.adapter.velocity((1 - at) * data + at * epsilon, sigma, prefix)
        return flow_matching_loss(velocity, data, epsilon)

    def _sigmas(self, prompts: int, noise: torch.Generator) -> Tensor:
        """(prompts * draws,) stratified within a prompt, so that its draws never land on one level."""
        u = (torch.arange(self.draws) + torch.rand(prompts, self.draws, generator=noise)) / self.draws
        normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        return torch.sigmoid(SIGMA_MEAN + SIGMA_STD * normal).flatten()

    def update(self, step: int, fraction: float) -> None:
        if self.kept is not self.module:
            for kept, value in zip(self.kept.parameters(), self.module.parameters(), strict=True):
                kept.grad, value.grad = None if value.grad is None else value.grad.float(), None
        self.ranks.add_up(list(self.kept.parameters()))
        self.optimiser.step(fraction, step)
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in self.kept.named_parameters():
                self.ema[name].lerp_(value, 1 - decay)
        self._put()

    @torch.no_grad()
    def _put(self) -> None:
        """What is kept, rounded, into the model that makes the passes."""
        if self.kept is not self.module:
            for kept, value in zip(self.kept.parameters(), self.module.parameters(), strict=True):
                value.copy_(kept)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint needs."""
        live = {name: value.detach() for name, value in self.kept.named_parameters()}
        return {"live": live, "ema": self.ema, "optimiser": self.optimiser.state()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        for name, value in self.kept.named_parameters():
            value.copy_(tensors["live"][name])
        self.ema = {name: tensors["ema"][name].clone() for name in self.ema}
        self.optimiser.restore(tensors["optimiser"])
        self._put()


def vision_patches(pictures: np.ndarray) -> Tensor:
    """uint8 (N, 64, 64, 3) to what Qwen3-VL's processor makes of them: (N * 16, 3 * 2 * 16 * 16), patches in 2x2 groups."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    side = SIDE // 32
    x = x.reshape(len(pictures), 3, side, 2, 16, side, 2, 16)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # group row, group column, row, column, channel, y, x
    return x.unsqueeze(6).expand(*x.shape[:6], 2, *x.shape[6:]).reshape(len(pictures) * (SIDE // 16) ** 2, -1)


def train(
    trainer: BaseTrainer,
    tasks: Sequence[tuple[Examples, int]],
    *,
    steps: int,
    seed: int = 0,
    start: int = 0,
    report: Callable[[int, list[float]], None],
) -> None:
    """`tasks` pairs examples with how many prompts of them a step takes, shared among the processes there are.

    `report(step, losses)` logs and checkpoints; the losses are those of this process.
    """
    ranks = trainer.ranks
    for step in range(start, steps):
        draw = np.random.default_rng((seed, step, ranks.rank))
        noise = torch.Generator().manual_seed((seed * 1_000_003 + step) * ranks.count + ranks.rank)
        losses = []
        for examples, batch in tasks:
            with attention_with_gradients(next(trainer.module.parameters())):
                loss = trainer.loss(examples, *examples.draw(batch // ranks.count, draw), noise)
                (loss / len(tasks) / ranks.count).backward()
            losses.append(loss.detach())
        trainer.update(step, step / steps)
        report(step + 1, [float(loss) for loss in losses])
