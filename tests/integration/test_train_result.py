"""What a training leaves, `transformer/` or `lora/`, is there whole or not at all wherever it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.commands.train import export
from tastemaker.models.qwen_image21 import adapt
from tastemaker.runtime import folder as disk
from tastemaker.training.start import trained_parameters
from tiny import tiny_qwen_image21
from tiny_run import tiny_config

POLICIES = {"transformer": {"kind": "full"}, "lora": {"kind": "lora", "rank": 2, "alpha": 4}}


class Killed(BaseException):
    """Not an Exception: no handler of the product may swallow it."""


def left(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def dying(patched: pytest.MonkeyPatch, kill_at: int) -> Callable[[str], None]:
    """A kill runs no clean-up, so what would be removed on the way out stays."""
    count = iter(range(1000))

    def barrier(name: str) -> None:
        if next(count) == kill_at:
            patched.setattr(disk, "remove", lambda path: None)
            raise Killed

    return barrier


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("form", sorted(POLICIES))
def test_killed_anywhere_the_result_is_whole_or_absent(tmp_path, monkeypatch, form, again):
    config = tiny_config("base", policy=POLICIES[form], rollout={"guidance": 1.0})
    adapter = adapt(tiny_qwen_image21())
    trained = trained_parameters(config.policy, adapter)
    passed: list[str] = []
    monkeypatch.setattr(disk, "barrier", passed.append)
    whole = {path.name for path in export(config, adapter, tmp_path / "whole").iterdir()}
    former = left(tmp_path / "whole" / form)
    assert len(passed) > len(whole) > 1 and former
    with torch.no_grad():
        for value in trained:
            value.add_(1.0)
    for kill_at in range(len(passed)):
        run = tmp_path / f"killed-{kill_at}"
        if again:
            copytree(tmp_path / "whole" / form, run / form)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(disk, "barrier", dying(patched, kill_at))
            export(config, adapter, run)
        if (run / form).exists():
            assert {path.name for path in (run / form).iterdir()} == whole, passed[kill_at]
        export(config, adapter, run)
        assert {path.name for path in run.iterdir()} == {form}, passed[kill_at]
        found = left(run / form)
        assert found.keys() == former.keys() and not all(torch.equal(found[name], former[name]) for name in found)
