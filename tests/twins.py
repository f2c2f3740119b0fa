"""One of two processes that train together, without the other."""

from __future__ import annotations

from tastemaker.runtime.distributed import Ranks


class Twin(Ranks):
    """One of two processes that found the same gradients."""

    def add_up(self, parameters):
        for parameter in parameters:
            parameter.grad = None if parameter.grad is None else 2 * parameter.grad
