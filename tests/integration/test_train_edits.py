"""`tastemaker train` on a file of prompts and edits with the shipped miniature, and a benchmark of both tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.commands.train import train
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.evaluation.benchmark import Drawing, draw
from tastemaker.miniature import task
from tastemaker.miniature.world import corpus, splits
from tastemaker.models.adapter import load
from tastemaker.runtime.metrics import read_lines

CONFIG = """\
name: mixed
model: miniature
precision: fp32
threads: 1
data: {prompts: prompts.jsonl, edit_share: 0.4}
rollout: {prompts: 4, group_size: 2, steps: 4, guidance: 1.5}
algorithm: {name: nft, points: 1, velocity_kl: 0}
rewards:
- {name: facts, weight: 0.9, floor: 0.05}
- {name: edit_facts, weight: 0.0, floor: 0.05}
- {name: quality, weight: 0.1, floor: 0.02}
categories:
  edit: {edit_facts: 0.9, quality: 0.1}
checkpoint: {every: 1}
budget: {max_steps: 2}
"""


def written(folder):
    """A corpus of four prompts and four edits, and the config beside it."""
    items = [*splits.rl_prompts(4, 0), *splits.rl_prompts(4, 0, "edit")]
    corpus.write_corpus(items, folder)
    (folder / "run.yaml").write_text(CONFIG)
    return folder / "run.yaml"


def test_a_file_with_edits_trains_says_both_rewards_and_resumes(tmp_path):
    """The resumed run finds the embeddings, of prompts and of edits, that it left behind."""
    config = written(tmp_path)
    whole = train(config, folder=tmp_path / "whole")
    train(config, folder=tmp_path / "parts", overrides=["budget.max_steps=1"])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "embeddings").iterdir()}
    parts = train(config, folder=tmp_path / "parts")
    assert len(kept) >= 4 and all(path.stat().st_mtime_ns == time for path, time in kept.items())
    lines = read_lines(tmp_path / "whole" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2] and all(line["images"] == 8 for line in lines)
    for line in lines:
        assert {"reward/facts", "reward/edit_facts", "reward/quality"} <= line.keys() and line["scores_missing"] == 0
    name = "diffusion_pytorch_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_in_bf16_the_ratio_begins_at_one(tmp_path):
    """Rollout and update go through attention in the same way: between two ways it began at 7e-5 nats an element."""
    text = CONFIG.replace("{name: nft, points: 1, velocity_kl: 0}", "{name: grpo, velocity_kl: 0}").replace("fp32", "bf16")
    written(tmp_path).write_text(text)
    train(tmp_path / "run.yaml", folder=tmp_path / "run", overrides=["budget.max_steps=1", "rollout.prompts=3"])
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[0]["log_ratio_floor"] < 1e-5


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_a_benchmark_draws_prompts_and_edits_alike(tmp_path, guidance):
    """Each picture is that of its prompt alone, whatever it is drawn with, and depends on its source."""
    adapter = load(task.WEIGHTS, device="cpu", dtype=torch.float32)
    embeddings = EmbeddingCache(adapter, height=64, width=64)
    texts, edits = task.held_out_prompts(3), task.held_out_edits(tmp_path, 3)
    mixed = [edits[0], texts[0], texts[1], edits[1], texts[2], edits[2]]
    drawing = Drawing(4, guidance, seed=0, height=64, width=64, batch=2)
    told = []
    together = draw(adapter, embeddings, mixed, drawing, lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6) and [done for done, _ in told] == sorted(done for done, _ in told)
    for place, prompt in enumerate(mixed):
        alone = draw(adapter, embeddings, [prompt], drawing)[0]
        assert np.abs(together[place].astype(int) - alone).max() <= 2
    found = task.edit_verdicts(draw(adapter, embeddings, edits, drawing), edits)
    assert found.success.shape == found.identity.shape == (3,)
