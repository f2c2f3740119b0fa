"""Lets Qwen's vision-language processors work without torchvision.

In transformers 5 these processors insist on a video processor, and every video processor on torchvision, whose PyPI build does
not load beside a CPU build of torch. Nobody here processes video, so without torchvision the processors are given two parts,
pictures and text. With torchvision installed nothing is touched.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any


@functools.cache
def allow_processors_without_torchvision() -> None:
    """Call before a processor is built or loaded; further calls do nothing."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from transformers import Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor

    for processor in (Qwen2VLProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor):
        _without_video(processor)


def _without_video(processor: type) -> None:
    from transformers.processing_utils import ProcessorMixin

    original = processor.__init__  # type: ignore[misc]

    # transformers reads a processor's parts off this signature, so it must not name `video_processor`.
    def __init__(self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any) -> None:
        whole = ProcessorMixin.__init__

        def two_parts(self: Any, image_processor: Any, tokenizer: Any, video_processor: Any = None, **kwargs: Any) -> None:
            whole(self, image_processor, tokenizer, **kwargs)

        ProcessorMixin.__init__ = two_parts
        try:
            original(self, image_processor, tokenizer, None, chat_template=chat_template)
        finally:
            ProcessorMixin.__init__ = whole

    processor.__init__ = __init__  # type: ignore[misc]
