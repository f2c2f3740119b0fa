"""Teachers for distillation: any number of them, one seat on the device (`training/seats.py`).

They wait on the CPU (or on the disk), and the one whose turn it is is brought to the seat. So three teachers take no more of
the device than one, and each is brought there once in an iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tastemaker.models.adapter import Adapter
from tastemaker.training.seats import Seat
from tastemaker.types import Prompt

Route = Callable[[Prompt], str]
"""From a prompt to the name of its teacher."""


@dataclass(frozen=True)
class Teacher:
    """How it is to be sampled; the seat has its weights."""

    name: str
    guidance: float = 1.0
    rescale: bool = False
    negative_prompt: str = ""


class Teachers:
    """Those who may take the seat.

    >>> teachers = Teachers(CopySeat(adapter), route=lambda prompt: prompt.task)
    >>> teachers.add("edit", folder, guidance=1.5)
    >>> for teacher, places in teachers.places(prompts):
    ...     with teachers.seated(teacher) as adapter:
    ...         adapter.velocity(...)
    """

    def __init__(self, seat: Seat, route: Route) -> None:
        self.by_name: dict[str, Teacher] = {}
        self.route = route
        self._seat = seat
        self._seated: str | None = None

    def add(
        self,
        name: str,
        folder: Path,
        *,
        guidance: float = 1.0,
        rescale: bool = False,
        negative_prompt: str = "",
        on_disk: bool = False,
    ) -> None:
        """Opens a teacher; the seat says what `folder` may be and what is refused."""
        if name in self.by_name:
            raise ValueError(f"there is a teacher {name!r} already")
        self._seat.add(name, folder, on_disk=on_disk)
        self.by_name[name] = Teacher(name, guidance, rescale, negative_prompt)

    def places(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Teacher, Tensor]]:
        """Each teacher that some of the prompts have, in one order, and the places of those prompts; the seated one first."""
        routed = [self.route(prompt) for prompt in prompts]
        if unknown := sorted({*routed} - {*self.by_name}):
            raise ValueError(f"prompts are routed to {unknown}, there are {sorted(self.by_name)}")
        order = sorted({*routed}, key=lambda name: (name != self._seated, name))
        for name in order:
            yield self.by_name[name], torch.tensor([place for place, found in enumerate(routed) if found == name])

    @contextmanager
    def seated(self, teacher: Teacher) -> Iterator[Adapter]:
        """Inside the block, the adapter around the teacher's weights, without gradient; the student may be out of use there."""
        if self._seated != teacher.name:
            self._seated = None
            self._seat.bring(teacher.name)
            self._seated = teacher.name
        with torch.no_grad(), self._seat.occupied() as adapter:
            yield adapter
