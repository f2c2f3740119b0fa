"""The identity embedder: its loss, its views, that it learns and resumes, and how alike faces are counted."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tastemaker.errors import Corrupt, UserMistake
from tastemaker.miniature.identity import network
from tastemaker.miniature.identity import train as identity
from tastemaker.runtime.metrics import read_lines

SMALL = identity.Plan(steps=4, families=1, save_every=2)


def made(seed=0) -> network.IdentityNet:
    torch.manual_seed(seed)
    return network.IdentityNet()


def test_the_loss_is_the_cross_entropy_of_the_right_face():
    first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rows = [math.log(1 + math.exp((0.6 - 1.0) / 0.5)), math.log(1 + math.exp((0.0 - 0.8) / 0.5))]
    columns = [math.log(1 + math.exp((0.0 - 1.0) / 0.5)), math.log(1 + math.exp((0.6 - 0.8) / 0.5))]
    found = identity.contrastive_loss(first, second, 0.5)
    assert found.tolist() == pytest.approx([(a + b) / 2 for a, b in zip(rows, columns, strict=True)], abs=1e-6)


def test_views_follow_seed_and_step_and_show_the_same_face_twice():
    one, two = identity.views(SMALL, 1), identity.views(SMALL, 1)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].shape == (8, 64, 64, 3) and not np.array_equal(one[0], identity.views(SMALL, 2)[0])


def test_vectors_have_length_one_and_other_sizes_are_refused():
    vectors = network.embed(made().eval(), np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    assert vectors.shape == (3, network.DIMENSIONS) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with pytest.raises(UserMistake, match="knows"):
        network.embed(made(), np.zeros((1, 32, 32, 3), np.uint8))


def test_it_learns_and_resumes_to_the_same_weights(tmp_path, monkeypatch):
    plan = identity.Plan(steps=4, families=1, save_every=2)
    whole = identity.train(made(), plan, tmp_path / "whole")
    assert [line["step"] for line in read_lines(tmp_path / "whole" / "log.jsonl")] == [1, 2, 3, 4]
    views = identity.views
    monkeypatch.setattr(identity, "views", lambda plan, step: views(plan, step) if step < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        identity.train(made(), plan, tmp_path / "parts")
    monkeypatch.setattr(identity, "views", views)
    parts = identity.train(made(9), plan, tmp_path / "parts")
    for (name, one), (_, other) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_loss_falls(tmp_path, monkeypatch):
    fixed = identity.views(SMALL, 1)
    monkeypatch.setattr(identity, "views", lambda plan, step: fixed)
    identity.train(made(), identity.Plan(steps=25, families=1, lr=4e-3, save_every=100), tmp_path)
    losses = [line["loss"] for line in read_lines(tmp_path / "log.jsonl")]
    assert losses[-1] < 0.7 * losses[0]


def test_the_area_under_the_curve_is_one_for_a_perfect_eye(monkeypatch):
    def perfect(net, pictures):
        return np.array([[1.0, 0.0], [1.0, 0.0], *[[0.0, 1.0]] * (len(pictures) - 2)])

    monkeypatch.setattr(identity, "embed", perfect)
    found = identity.identity_auc(made(), 3)
    assert found.n == 3 and found.value == 1.0


def test_weights_are_kept_as_safetensors(tmp_path):
    net, path = made().eval(), tmp_path / "identity.safetensors"
    network.save(net, path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(network.embed(net, pictures), network.embed(network.load(path), pictures))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserMistake, match="no identity embedder"):
        network.load(tmp_path / "none")
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(Corrupt, match="not the weights"):
        network.load(path)
