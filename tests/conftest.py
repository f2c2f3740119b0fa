"""Fixtures shared by all tests; heavy imports happen only in the tests that ask for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before anybody imports torch; the processes that tests start inherit it


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run side by side, a process for each processor: where each used all of them, all would be many times slower."""
    yield
    if "torch" in sys.modules:
        assert sys.modules["torch"].get_num_threads() == 1, "this test left torch with more threads than it found"


@pytest.fixture(scope="session")
def qwen_image21():
    """A tiny Qwen-Image-2.1 adapter with random weights. Shared: leave its weights and its LoRA layers as you found them."""
    from tastemaker.models.qwen_image21 import adapt
    from tiny import tiny_qwen_image21

    return adapt(tiny_qwen_image21())
