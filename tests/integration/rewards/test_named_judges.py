"""Judges that a config names, from the file to the trained weights: a chat server, a folder, our own server."""

import hashlib
import json
import math
from dataclasses import replace

import pytest
import torch
from faulty_server import completion, free_port, running, scored

from tastemaker.commands.train import train
from tastemaker.config import CacheConfig, FolderJudgeConfig, ServerJudgeConfig, TrainConfig, load, parse
from tastemaker.errors import ServiceFailed, UserMistake
from tastemaker.named.judges import check_rewards, folder_judge, opened_rewards
from tastemaker.rewards import service
from tastemaker.rewards.readout import ReadOut
from tastemaker.rewards.vlm import judge_file
from tastemaker.runtime.metrics import read_lines
from tastemaker.types import Prompt
from tiny_judge import RUBRIC, save, tiny_vlm

TOKEN = "a-token-of-the-tests"
CONFIG = """\
name: judged
model: miniature
threads: 1
precision: fp32  # of four samples the rounding of a ratio may be above the clip range in bf16
data: {{prompts: miniature}}
rollout: {{prompts: 2, group_size: 2, steps: 3, window_size: 1, guidance: 1, chunks: 2}}
algorithm: {{velocity_kl: 0}}
budget: {{max_steps: 2}}
rewards:
- name: taste
  weight: 0.5
  low: 1
  high: 5
  judge: {{kind: chat, url: "{url}/v1", model: m, rubric: alignment.v1, token_variable: TASTEMAKER_TEST_TOKEN}}
- name: beauty
  weight: 0.5
  low: 1
  high: 5
  judge: {{kind: folder, path: judge, rubric: mine.v1.md, read_out: {{chain_of_thought: false, min_mass: 1e-6}}}}
"""
OWN = "The picture:\n[[picture]]\nThe request:\n[[request]]\n[[answer]]\n"


def taste(handler, body):
    """A rationale, then a score that depends on the picture."""
    asked = json.loads(body)
    if not asked.get("logprobs"):
        return handler.reply(completion("It is red.", stop_reason="</think>"))
    four = 0.1 + 0.8 * hashlib.sha256(json.dumps(asked["messages"][0]).encode()).digest()[0] / 255
    return handler.reply(completion("4", {"4": math.log(four), "2": math.log(1 - four)}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Beside the config: a tiny judge with random weights, and a rubric."""
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("TASTEMAKER_TEST_TOKEN", TOKEN)
    save(tiny_vlm(), tmp_path / "judge")
    (tmp_path / "mine.v1.md").write_text(OWN)
    return tmp_path


def test_two_steps_on_the_miniature_against_a_chat_server_and_a_folder(folder):
    with running(taste) as server:
        (folder / "run.yaml").write_text(CONFIG.format(url=server.url))
        exported = train(folder / "run.yaml", folder=folder / "run")
        headers = [headers["Authorization"] for _, headers, _ in server.requests]
    assert (exported / "config.json").is_file()
    lines = read_lines(folder / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2] and all(line["updates"] == 1 for line in lines)
    for line in lines:
        assert line["scores_missing"] == 0 and 0 <= line["hidden_latency"] <= 1
        assert 1 <= line["reward/taste"] <= 5 and 1 <= line["reward/beauty"] <= 5
    assert headers == [f"Bearer {TOKEN}"] * 16, "two requests for each of four pictures in two steps"
    written = b"".join(path.read_bytes() for path in (folder / "run").rglob("*.*") if path.suffix != ".safetensors")
    assert TOKEN.encode() not in written


def test_a_chat_server_that_is_down_ends_the_run_in_one_line(folder):
    """And before anything is trained; the deadlines are the config's."""
    (folder / "run.yaml").write_text(CONFIG.format(url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(ServiceFailed, match=r"no answer from http://127\.0\.0\.1") as failed:
        train(folder / "run.yaml", folder=folder / "run", overrides=["deadlines={item: 0.2, batch: 0.4}"])
    assert "\n" not in str(failed.value) and not (folder / "run" / "metrics.jsonl").exists()


def served(url: str) -> TrainConfig:
    reward = f'{{name: mine, low: 1, high: 5, judge: {{kind: server, url: "{url}"}}}}'
    return parse(f"name: a\nmodel: miniature\ndata: {{prompts: miniature}}\nrewards: [{reward}]\n", TrainConfig)


def test_a_served_judge_has_the_name_of_the_config_and_the_range_of_the_server(tmp_path):
    with running(scored()) as server:
        config = served(server.url)
        assert isinstance(config.rewards[0].judge, ServerJudgeConfig)
        with opened_rewards(config, tmp_path, torch.device("cpu")) as rewards:
            scores = rewards["mine"].score(torch.rand(2, 3, 8, 8), [Prompt(str(n), f"a picture of {n}") for n in range(2)])
            assert rewards["mine"].name == "mine" and scores == [1.0, 1.1]
        changes = {"rewards": (config.rewards[0].model_copy(update={"high": 10.0}),)}
        with (
            pytest.raises(UserMistake, match=r"mine gives scores from 1 to 5, not from 1 to 10; set low and high"),
            opened_rewards(config.model_copy(update=changes), tmp_path, torch.device("cpu")),
        ):
            pass


def test_scores_are_kept_for_other_runs_where_the_config_says_so(tmp_path):
    """Also in a run that stopped and draws the same pictures again; another judge's scores are not taken for it."""
    images, prompts = torch.rand(3, 3, 8, 8), [Prompt(str(n), f"a picture of {n}") for n in range(3)]

    def ask(url, rows, **changes):
        config = served(url).model_copy(update={"cache": CacheConfig(folder="scores"), **changes})
        with opened_rewards(config, tmp_path, torch.device("cpu")) as rewards:
            return rewards["mine"].score(images[:rows], prompts[:rows])

    with running(scored()) as server:
        assert ask(server.url, 2) == [1.0, 1.1] and ask(server.url, 3) == [1.0, 1.1, 1.2]
        asked = [len(json.loads(body)["questions"]) for *_, body in server.requests]
        assert asked == [2, 1] and len(list((tmp_path / "scores").glob("*/*.json"))) == 3
        ask(server.url, 3, cache=None)
        assert len(server.requests) == 3
    (tmp_path / "file").write_text("")
    with running(scored()) as server, pytest.raises(UserMistake, match=r"rewards\.0\.judge: no score can be kept in cache"):
        ask(server.url, 1, cache=CacheConfig(folder="file"))


def test_a_folder_is_checked_before_it_is_opened(folder):
    (folder / "run.yaml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    config = load(folder / "run.yaml", TrainConfig)
    assert isinstance(config.rewards[1].judge, FolderJudgeConfig)
    check_rewards(config, folder)
    (folder / "judge" / "config.json").unlink()
    (folder / "mine.v1.md").unlink()
    with pytest.raises(UserMistake) as caught:
        check_rewards(config, folder)
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "rewards.1.judge.rubric",
        "rewards.1.judge.path",
    ]


@pytest.mark.parametrize(
    "trained, changes, read",
    [
        (ReadOut(chain_of_thought=False, lead="Rate: "), {}, {}),
        (ReadOut(chain_of_thought=False, lead="Rate: "), {"min_mass": 0.8}, {"min_mass": 0.8}),
        (ReadOut(start="<r>", stop="</r>"), {"max_rationale_tokens": 9}, {"max_rationale_tokens": 9}),
        (ReadOut(stop="</r>", min_mass=0.5), {"chain_of_thought": False}, {"chain_of_thought": False}),
    ],
)
def test_a_judge_is_read_as_it_was_trained_but_for_what_the_config_sets(folder, trained, changes, read):
    (folder / "judge" / "judge.json").write_text(judge_file(RUBRIC, trained))
    config = FolderJudgeConfig.model_validate({"path": "judge", "read_out": changes})
    judge = folder_judge(config, "taste", folder, torch.device("cpu"))
    assert judge.read_out == replace(trained, **read) and judge.rubric == RUBRIC


def test_a_rationale_that_was_never_trained_is_refused_before_the_judge_is_opened(folder):
    (folder / "judge" / "judge.json").write_text(judge_file(RUBRIC, ReadOut(chain_of_thought=False)))
    (folder / "run.yaml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    changes = ["rewards.1.judge.read_out={chain_of_thought: true}"]
    with pytest.raises(UserMistake, match=r"^rewards\.1\.judge\.read_out: chain_of_thought: true, but .*judge was trained"):
        check_rewards(load(folder / "run.yaml", TrainConfig, changes), folder)
