"""The configs of docs/start.md are accepted, together: what one names, another leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tastemaker.config import TrainConfig
from tastemaker.config.evaluation import EvaluateConfig
from tastemaker.config.load import parse
from tastemaker.config.reward_training import RewardTrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "start.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", PAGE, re.DOTALL))


def test_judges_that_are_asked_are_those_that_were_trained():
    trained = {parse(FILES[name], RewardTrainConfig).name for name in ("alignment.yaml", "aesthetic.yaml")}
    for config in (parse(FILES["run.yaml"], TrainConfig), parse(FILES["compare.yaml"], EvaluateConfig)):
        assert {reward.judge.path for reward in config.rewards} == {f"runs/{name}/judge" for name in trained}


def test_the_model_is_compared_as_it_was_trained():
    run, compare = parse(FILES["run.yaml"], TrainConfig), parse(FILES["compare.yaml"], EvaluateConfig)
    assert [model.path for model in compare.models] == [run.model, f"runs/{run.name}"] and compare.prompts == run.data.held_out
    assert (compare.steps, compare.picture_side) == (run.rollout.steps, run.rollout.picture_side)
    assert compare.guidance == (run.rollout.guidance,)


@pytest.mark.parametrize("line", re.findall(r"tastemaker (?:train|curate) run.yaml(.*?)(?:  +#|\n)", PAGE))
def test_overrides_are_accepted(line):
    parse(FILES["run.yaml"], TrainConfig, re.findall(r"-o (\S+)", line))


def test_the_part_for_qwen_image_replaces_two_settings():
    (part,) = re.findall(r"```yaml\n(model: models/Qwen-Image\n.*?)```", PAGE, re.DOTALL)
    keys = ("model:", "rollout:")
    rest = "".join(line for line in FILES["run.yaml"].splitlines(keepends=True) if not line.startswith(keys))
    config = parse(rest + part, TrainConfig)
    assert config.rollout.guidance == 4 and config.rollout.negative_prompt == " "
