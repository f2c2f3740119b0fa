"""Nested state of optimisers as flat tensors and plain JSON, and back: what torch.save would pickle, without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Splits nested dicts, lists and tuples into {path: tensor} and a JSON description that `unflatten` needs.

    >>> tensors, plain = flatten({"state": {0: {"exp_avg": torch.ones(2)}}, "betas": (0.9, 0.999)})
    >>> list(tensors), unflatten(tensors, plain)["betas"]
    (['state.0.exp_avg'], (0.9, 0.999))
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(tree, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """The tree that `flatten` took apart."""
    kind, value = plain
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten(tensors, inner) for key, inner in value}
    if kind in ("list", "tuple"):
        items = [unflatten(tensors, inner) for inner in value]
        return items if kind == "list" else tuple(items)
    return value


def _flatten(tree: Any, path: str, tensors: dict[str, Tensor]) -> list[Any]:
    if isinstance(tree, torch.Tensor):
        if path in tensors:
            raise ValueError(f"two tensors are called {path!r}")
        tensors[path] = tree
        return ["tensor", path]
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise _refusal(key, path)
        return ["dict", [[key, _flatten(value, f"{path}.{key}".lstrip("."), tensors)] for key, value in tree.items()]]
    if isinstance(tree, (list, tuple)):
        kind = "list" if isinstance(tree, list) else "tuple"
        return [kind, [_flatten(value, f"{path}.{row}".lstrip("."), tensors) for row, value in enumerate(tree)]]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return ["value", tree]
    raise _refusal(tree, path)


def _refusal(value: Any, path: str) -> ValueError:
    kind = type(value).__name__
    return ValueError(f"{path or 'state'} holds {value!r} of type {kind}, which is neither tensor nor plain data")
