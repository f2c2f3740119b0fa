"""`tastemaker serve-reward`: a vision-language model as a judge over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from tastemaker.errors import UserMistake
from tastemaker.rewards.batching import ServerLimits
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm import VLMJudge, read_judge_file
from tastemaker.rewards.vlm_folder import JUDGE_FILE
from tastemaker.runtime.device import Precision, named_device, pick_device, pick_precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def serve_reward(
    folder: Path,
    *,
    rubric: str | None = None,
    base: Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8100,
    device: str | None = None,
    precision: str = "auto",
    chain_of_thought: bool | None = None,
    num_rationales: int | None = None,
    temperature: float | None = None,
    max_rationale_tokens: int | None = None,
    batch: int = 16,
    deadline: float = 45.0,
    queue: int = 512,
) -> None:
    """Opens a vision-language model as a judge and answers over HTTP until it is told to stop; see `rewards.server.serve`.

    What is None of the read-out is the folder's own, or the default.
    """
    if precision not in PRECISIONS:
        raise UserMistake(f"--precision {precision}: choose one of {', '.join(PRECISIONS)}")
    limits = ServerLimits(batch=batch, deadline=deadline, queue=queue)
    try:
        from tastemaker.rewards.server import open_door, serve
    except ImportError as error:
        raise UserMistake(f"a server needs {error.name}: pip install 'tastemaker[serve]'") from None
    where = named_device(device) if device else pick_device()
    own = read_judge_file(folder / JUDGE_FILE)[1] if (folder / JUDGE_FILE).is_file() else ReadOut()
    given: dict[str, Any] = {
        "chain_of_thought": chain_of_thought,
        "num_rationales": num_rationales,
        "temperature": temperature,
        "max_rationale_tokens": max_rationale_tokens,
    }
    with open_door(host, port) as door:
        judge = VLMJudge.load(
            folder,
            rubric=rubric,
            read_out=replace(own, **{name: value for name, value in given.items() if value is not None}),
            device=where,
            dtype=pick_precision(precision, where),
            base=base,
            label=name,
            max_pictures=batch,
        )
        Console().print(f"judge {judge.name} on {where}, listening on http://{host}:{door.getsockname()[1]}; Ctrl-C stops it")
        serve(judge, host=host, port=port, limits=limits, door=door)
