"""`load` refuses what it cannot open safely, before any library touches the folder."""

from __future__ import annotations

import json

import pytest
import torch

from tastemaker.errors import UserMistake
from tastemaker.models.adapter import collate, load
from tastemaker.types import Condition


def opened(folder):
    return load(folder, device="cpu", dtype=torch.float32)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(UserMistake, match=r"no model_index\.json"):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(UserMistake, match="not a pipeline index"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["WanPipeline", ["pipeline", "Mine"]])
def test_an_unknown_family_is_refused_by_name(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UserMistake, match="tastemaker knows QwenImage21Pipeline"):
        opened(tmp_path)


def test_code_that_comes_with_a_model_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "QwenImage21Pipeline"}))
    (tmp_path / "processor").mkdir()
    config = {"auto_map": {"AutoTokenizer": ["tokenizer.Evil", None]}}
    (tmp_path / "processor" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserMistake, match="auto_map"):
        opened(tmp_path)


def test_collate_pads_the_token_axis_with_zeros():
    short, long = (Condition({"embeds": torch.ones(1, n, 4), "mask": torch.ones(1, n, dtype=torch.bool)}) for n in (2, 5))
    both = collate([short, long])
    assert both.tensors["embeds"].shape == (2, 5, 4) and both.tensors["embeds"][0, 2:].abs().sum() == 0
    assert both.tensors["mask"].tolist() == [[True, True, False, False, False], [True] * 5]
