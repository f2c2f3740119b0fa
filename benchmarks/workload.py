"""What is measured on: the miniature at its real size, its own prompts and edits, and settings as in training.

Weights are the shipped ones, or random where none are shipped: speed does not depend on them. Random ones are drawn so that the
picture depends on the prompt, else a way that ignores the prompt would pass the check.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.data.prompts import read_prompts
from tastemaker.miniature.builder.assembly import empty_pipeline
from tastemaker.miniature.builder.parts import SIDE, build_vae
from tastemaker.miniature.world.corpus import write_corpus
from tastemaker.miniature.world.splits import rl_prompts
from tastemaker.models.adapter import load
from tastemaker.models.qwen_image21 import QwenImage21Adapter, adapt
from tastemaker.rollout import Noise
from tastemaker.types import Prompt

SEED = 0
WEIGHTS = Path(str(files("tastemaker.miniature"))) / "weights"
"""The pipeline folder that ships with the package."""


@dataclass(frozen=True)
class Size:
    """How much work one run is; the ratio of groups, steps and guidance is that of training."""

    prompts: int = 4
    group: int = 8
    steps: int = 10
    trained: int = 3
    guidance: float = 3.0

    @property
    def images(self) -> int:
        return self.prompts * self.group


QUICK = Size(prompts=2, group=2, steps=3, trained=2)


@dataclass(frozen=True, eq=False)
class Workload:
    """Prompts of one kind, encoded already (`embeddings` holds them), and the noise that all ways start from."""

    title: str
    adapter: QwenImage21Adapter
    prompts: Sequence[Prompt]
    embeddings: EmbeddingCache
    size: Size

    @property
    def device(self) -> torch.device:
        return next(self.adapter.transformer.parameters()).device

    @property
    def noise(self) -> Noise:
        shape = (self.size.images, *self.adapter.latent_shape(SIDE, SIDE))

        def draw(where: int | str) -> Tensor:
            seed = SEED if where == "init" else 1 + int(where)
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

        return draw


def open_model(device: torch.device) -> tuple[QwenImage21Adapter, str]:
    """The miniature in float32, and which weights it has."""
    if (WEIGHTS / "model_index.json").exists():
        return load(WEIGHTS, device=device, dtype=torch.float32), "shipped weights"  # type: ignore[return-value]
    torch.manual_seed(SEED)
    pipeline = empty_pipeline(build_vae()).pipeline
    open_branches(pipeline.transformer)
    return adapt(pipeline.to(device)), "random weights"


def in_dtype(adapter: QwenImage21Adapter, dtype: torch.dtype) -> QwenImage21Adapter:
    """The same weights opened in another precision, by the way a user's are."""
    with tempfile.TemporaryDirectory() as folder:
        adapter.pipeline.save_pretrained(folder)
        device = next(adapter.transformer.parameters()).device
        return load(Path(folder), device=device, dtype=dtype)  # type: ignore[return-value]


@torch.no_grad()
def open_branches(transformer: nn.Module) -> None:
    """Weights that start at 0 would make every velocity 0, and the small ones of a fresh model nearly deaf to the prompt."""
    for parameter in transformer.parameters():
        if parameter.ndim >= 2 and not parameter.any():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        elif parameter.ndim >= 2:
            parameter.mul_(2)


def text_to_image(adapter: QwenImage21Adapter, size: Size) -> Workload:
    return _workload("text to image", adapter, _texts(size.prompts), size)


def of_one_length(adapter: QwenImage21Adapter, size: Size) -> Workload:
    """Prompts of equally many tokens: the whole-sequence way then needs no padding and takes all rows at once."""
    tokenizer = adapter.pipeline.processor.tokenizer
    found: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in _texts(16 * size.prompts):
        found[len(tokenizer(prompt.text).input_ids)].append(prompt)
    longest = max(found.values(), key=len)
    return _workload("text to image, prompts of one length", adapter, longest[: size.prompts], size)


def editing(adapter: QwenImage21Adapter, size: Size, folder: Path, num_sources: int) -> Workload:
    """Edits of the world with `num_sources` source pictures each, files in `folder`; a second one is another edit's."""
    prompts = read_prompts(write_corpus(rl_prompts(size.prompts, SEED, "edit"), folder))
    own = [prompt.sources[0] for prompt in prompts]
    given = [tuple((own[i:] + own)[:num_sources]) for i in range(len(own))]
    count = {1: "one source picture", 2: "two source pictures"}[num_sources]
    edits = [replace(prompt, sources=sources) for prompt, sources in zip(prompts, given, strict=True)]
    return _workload(f"edit, {count}", adapter, edits, size)


def _texts(count: int) -> list[Prompt]:
    return [Prompt(item.id, item.text, item.category) for item in rl_prompts(count, SEED)]


def _workload(title: str, adapter: QwenImage21Adapter, prompts: Sequence[Prompt], size: Size) -> Workload:
    if len(prompts) < size.prompts:
        raise ValueError(f"{title}: {len(prompts)} prompts, {size.prompts} are needed")
    embeddings = EmbeddingCache(adapter, height=SIDE, width=SIDE)
    embeddings.negative("", prompts)
    embeddings.warm(prompts)
    workload = Workload(title, adapter, prompts, embeddings, size)
    _require_dependence(workload)
    return workload


@torch.no_grad()
def _require_dependence(workload: Workload) -> None:
    """Another prompt must give another velocity, well above every tolerance, or comparing ways would prove nothing."""
    adapter, count = workload.adapter, len(workload.prompts)
    prefix = adapter.prefix(workload.embeddings.condition(workload.prompts))
    x = workload.noise("init")[:count]
    sigma = torch.full((count,), 0.8, device=x.device)
    right, wrong = (adapter.velocity(x, sigma, prefix.select(torch.arange(count).roll(shift))) for shift in (0, 1))
    share = float((right - wrong).norm() / right.norm())
    if share < 0.02:
        raise RuntimeError(f"{workload.title}: exchanging the prompts moves the velocity by {share:.1e} of its length only")
