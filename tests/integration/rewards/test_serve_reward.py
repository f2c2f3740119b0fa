"""`tastemaker serve-reward` up to the moment at which it would listen."""

import socket

import pytest
import torch

from tastemaker.commands.serve_reward import serve_reward
from tastemaker.errors import UserMistake
from tastemaker.rewards import server
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm import judge_file
from tastemaker.rewards.vlm_folder import JUDGE_FILE
from tiny_judge import RUBRIC, save, tiny_vlm

TRAINED = ReadOut(num_rationales=2, temperature=0.5, min_mass=0.5, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save(tiny_vlm(), tmp_path_factory.mktemp("judge"))
    (folder / JUDGE_FILE).write_text(judge_file(RUBRIC, TRAINED))
    return folder


@pytest.fixture
def served(monkeypatch):
    found = []
    monkeypatch.setattr(server, "serve", lambda judge, **options: found.append((judge, options["limits"])))
    return found


def test_a_trained_judge_is_read_as_it_was_trained_unless_told_otherwise(folder, served):
    serve_reward(folder, port=0, device="cpu")
    serve_reward(folder, port=0, device="cpu", num_rationales=3, max_rationale_tokens=8, precision="bf16", deadline=9, queue=99)
    serve_reward(folder, port=0, device="cpu", num_rationales=1, chain_of_thought=False, precision="fp32")
    (plain, _), (several, limits), (without, _) = served
    assert plain.read_out == TRAINED
    assert several.read_out == ReadOut(num_rationales=3, temperature=0.5, max_rationale_tokens=8, min_mass=0.5, seed=7)
    assert several.vlm.dtype == torch.bfloat16 and (limits.deadline, limits.queue) == (9, 99)
    assert not without.read_out.chain_of_thought and without.vlm.dtype == torch.float32


def test_a_read_out_that_cannot_be_is_one_line(folder, served):
    with pytest.raises(UserMistake, match="at temperature 0: all would be the same"):
        serve_reward(folder, port=0, device="cpu", temperature=0.0)
    with pytest.raises(UserMistake, match="batch at most queue"):
        serve_reward(folder, port=0, device="cpu", batch=16, queue=8)
    with pytest.raises(UserMistake, match="--precision half: choose one of auto, fp32, bf16"):
        serve_reward(folder, port=0, device="cpu", precision="half")
    for device, says in (("gpu", "'gpu' is not known"), ("cuda:99", "device cuda:99: torch finds"), ("cpu:0", "not known")):
        with pytest.raises(UserMistake, match=says):
            serve_reward(folder, port=0, device=device)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserMistake, match="choose another --port or --host"):
            serve_reward(folder.parent / "nothing is loaded yet", port=taken.getsockname()[1], device="cpu")
    assert not served
