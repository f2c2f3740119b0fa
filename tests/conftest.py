"""Fixtures shared by all tests; heavy imports happen only in the tests that ask for them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def qwen_image21():
    """A tiny Qwen-Image-2.1 adapter with random weights. Shared: leave its weights and its LoRA layers as you found them."""
    from tastemaker.models.qwen_image21 import adapt
    from tiny import tiny_qwen_image21

    return adapt(tiny_qwen_image21())
