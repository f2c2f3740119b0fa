"""`tastemaker serve-reward`: a vision-language model as a judge over HTTP."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from tastemaker.errors import UserMistake
from tastemaker.rewards.batching import ServerLimits
from tastemaker.rewards.vlm import VLMJudge
from tastemaker.runtime.device import Precision, pick_device, pick_precision


def serve_reward(
    folder: Path,
    *,
    rubric: str | None = None,
    base: Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
    device: str | None = None,
    precision: Precision = "auto",
    batch: int = 16,
) -> None:
    """Opens a vision-language model as a judge and answers over HTTP until it is told to stop; see `rewards.server.serve`."""
    try:
        from tastemaker.rewards.server import serve
    except ImportError as error:
        raise UserMistake(f"a server needs {error.name}: pip install 'tastemaker[serve]'") from None
    where = torch.device(device) if device else pick_device()
    judge = VLMJudge.load(
        folder,
        rubric=rubric,
        device=where,
        dtype=pick_precision(precision, where),
        base=base,
        label=name,
        max_pictures=batch,
    )
    Console().print(f"judge {judge.name} on {where}, listening on http://{host}:{port}; Ctrl-C stops it")
    serve(judge, host=host, port=port, limits=ServerLimits(batch=batch))
