"""The prompts of a step, encoded and dealt into parts that a forward can hold together.

    prompts of the step -> parts of one layout -> chunks, drawn and judged one after the other

Text to image and edits, or edits whose source pictures differ in number or shape, cannot share a forward: their sequences are
laid out differently. All else is shared, because their latents have one shape: a step has one trajectory, one set of scores
and one loss, whose rows are the samples of its prompts in the order of the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tastemaker.data.groups import prompts_of_step
from tastemaker.runtime import seeds
from tastemaker.training.setup import Setup
from tastemaker.types import Condition, Prompt


@dataclass(frozen=True)
class Part:
    """Consecutive prompts of a step that share a layout, encoded."""

    prompts: Sequence[Prompt]
    condition: Condition
    negative: Condition | None
    """One row for all prompts, or one for each."""
    first: int = 0
    """The place of the first prompt among those of the step."""

    @property
    def places(self) -> range:
        """Of its prompts among those of the step."""
        return range(self.first, self.first + len(self.prompts))

    def among(self, places: Tensor) -> Tensor:
        """Those of some places in the step that are of this part."""
        return places[(places >= self.places.start) & (places < self.places.stop)]

    def cut(self, count: int) -> Iterator[Part]:
        """`count` parts of whole groups, or one for each prompt when there are fewer; the same padding in all of them."""
        for rows in torch.arange(len(self.prompts)).tensor_split(min(count, len(self.prompts))):
            begin, end = int(rows[0]), int(rows[-1]) + 1
            # Rows of what the step encoded: encoded anew, a piece would be padded to another length.
            negative = self.negative
            if negative is not None and len(negative) > 1:
                negative = negative.select(rows)
            yield Part(self.prompts[begin:end], self.condition.select(rows), negative, self.first + begin)


@dataclass(frozen=True)
class Batch:
    """One step's prompts, or the share of one process, in the order of its pictures."""

    parts: tuple[Part, ...]

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def places(self) -> list[int]:
        """Of the prompts among those of the step."""
        return [place for part in self.parts for place in part.places]

    def sample_ids(self, group_size: int) -> list[str]:
        """Of its pictures, group-major: the prompt's and the number in its group."""
        return [f"{prompt.id}/{sample}" for prompt in self.prompts for sample in range(group_size)]

    def share(self, rank: int, count: int) -> Batch:
        """What process `rank` of `count` has of a whole step: neighbours of every part, so that all have alike of each layout.

        Who has one prompt more goes round from part to part: in all, no two processes differ by more than one.
        """
        if count == 1:
            return self
        dealt = ((part.first + nth, piece) for part in self.parts for nth, piece in enumerate(part.cut(count)))
        return Batch(tuple(piece for turn, piece in dealt if turn % count == rank))


def prepare(setup: Setup, step: int) -> Batch:
    """The step's prompts; those of one layout keep their order, and the parts stand in the order of their first prompts."""
    prompts = prompts_of(setup, step)
    device = next(setup.adapter.transformer.parameters()).device
    parts: list[Part] = []
    first = 0
    for places in setup.embeddings.by_layout(prompts):
        some = [prompts[place] for place in places]
        negative = setup.embeddings.negative(setup.negative_prompt, some).to(device) if setup.sampler.guided else None
        parts.append(Part(some, setup.embeddings.condition(some).to(device), negative, first))
        first += len(some)
    return Batch(tuple(parts))


def encode_ahead(setup: Setup, steps: Sequence[int], told: Callable[[int, int], None]) -> None:
    """On an accelerator: encodes all that these steps will ask for and takes the encoders off it; see `EmbeddingCache`.

    Each of several processes begins at another prompt and leaves out what the others have put into a folder they share.
    """
    negatives = [setup.negative_prompt] if setup.sampler.guided else []
    if setup.teachers is not None:
        negatives += [one.negative_prompt for one in setup.teachers.by_name.values() if one.guidance != 1]
    setup.embeddings.encode_ahead(_prompts_ahead(setup, steps), negatives, told)


def _prompts_ahead(setup: Setup, steps: Sequence[int]) -> Iterator[Prompt]:
    """Those of any of the steps, once each."""
    found: dict[str, Prompt] = {}
    for step in steps:
        found |= {prompt.id: prompt for prompt in prompts_of(setup, step)}
        if len(found) == len(setup.prompts):
            break
    prompts = list(found.values())
    begin = len(prompts) * setup.ranks.rank // setup.ranks.count
    yield from (*prompts[begin:], *prompts[:begin])


def prompts_of(setup: Setup, step: int) -> list[Prompt]:
    """Those of a step, in the order that they are drawn from the data set in."""

    def shuffle(*key: int | str):
        return seeds.random(setup.seed, "prompts", *key)

    return prompts_of_step(setup.prompts, step, setup.prompts_per_step, shuffle, setup.edit_share)


def chunks_of(batch: Batch, count: int) -> Iterator[Part]:
    """About `count` chunks of the step: each part is cut into its share of them, rounded up. With 1, the parts themselves."""
    for part in batch.parts:
        share = math.ceil(count * len(part.prompts) / len(batch.prompts))
        yield from [part] if share == 1 else part.cut(share)
