"""What a transformer says of its own sampling: a distilled student has guidance inside and is sampled without it.

The scale stands in the transformer's config.json under a private key. diffusers keeps such a key through `from_pretrained` and
`save_pretrained` without a word; one in model_index.json, or beside it, is lost when somebody saves the pipeline again.
"""

from __future__ import annotations

from typing import Any

KEY = "_tastemaker_guidance_scale"


def state_guidance(transformer: Any, scale: float) -> None:
    """Let the transformer say at which scale of guidance it is meant to be sampled; 1 is without."""
    transformer.register_to_config(**{KEY: float(scale)})


def stated_guidance(transformer: Any) -> float | None:
    """What it says; None for one that says nothing."""
    return transformer.config.get(KEY)
