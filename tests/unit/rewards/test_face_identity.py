import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import UserMistake
from tastemaker.flow.advantage import group_advantages
from tastemaker.rewards.composite import Composite, missing_share
from tastemaker.rewards.faces_arcface import TEMPLATE, ArcFaceEmbedder, align
from tastemaker.rewards.faces_dlib import DlibEmbedder
from tastemaker.rewards.identity import Face, FaceIdentityReward, matched
from tastemaker.rewards.reward import FunctionReward, Missing, score_all
from tastemaker.types import Prompt


class ByRedness:
    """Pretends that a picture holds the faces whose angles are listed under its upper left red value."""

    def __init__(self, angles):
        self.angles = angles

    def embed(self, picture):
        radians = np.radians(self.angles.get(picture.getpixel((0, 0))[0], []))
        return np.stack([np.cos(radians), np.sin(radians)], axis=1)

    def similarity(self, left, right):
        return np.clip(left @ right.T, 0, 1)


def output(*reds):
    return torch.tensor(reds).view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 255


def edit(tmp_path, *reds):
    paths = []
    for red in reds:
        paths.append(str(tmp_path / f"{red}.png"))
        Image.new("RGB", (8, 8), (red, 0, 0)).save(paths[-1])
    return Prompt("e1", "make it night", task="edit", sources=tuple(paths))


def score(embedder, prompt, red, **options):
    return FaceIdentityReward(embedder, **options).score(output(red), [prompt])[0]


def test_matching_is_the_best_of_all_one_to_one_matchings():
    generator = np.random.default_rng(0)
    for rows, columns in itertools.product(range(1, 5), repeat=2):
        similarity = generator.random((rows, columns))
        table = similarity if rows <= columns else similarity.T
        orders = itertools.permutations(range(table.shape[1]), len(table))
        best = max(table[range(len(table)), list(picked)].sum() for picked in orders)
        assert matched(similarity).sum() == pytest.approx(best)


def test_several_faces_are_matched_one_to_one(tmp_path):
    embedder = ByRedness({10: [0, 60], 20: [60, 0], 30: [0, 0], 40: [0, 60, 90]})
    prompt = edit(tmp_path, 10)
    assert score(embedder, prompt, 20) == pytest.approx(1)
    assert score(embedder, prompt, 30) == pytest.approx(0.75)  # one face of the output cannot stand for two people
    assert score(embedder, prompt, 40) == pytest.approx(1)  # somebody new in the picture


def test_faces_of_all_sources_are_wanted(tmp_path):
    embedder = ByRedness({10: [0], 20: [90], 30: [90, 0], 40: [0]})
    assert score(embedder, edit(tmp_path, 10, 20), 30) == pytest.approx(1)
    assert score(embedder, edit(tmp_path, 10, 20), 40, lost=0.0) == pytest.approx(0.5)


def test_a_lost_face_is_the_worst_unless_otherwise_set(tmp_path):
    embedder = ByRedness({10: [0, 60], 20: [0]})
    prompt = edit(tmp_path, 10)
    assert score(embedder, prompt, 99) == 0 and score(embedder, prompt, 20) == pytest.approx(0.5)
    assert score(embedder, prompt, 99, lost=None) == Missing("2 face(s) found in the source but 0 in the output")
    assert score(embedder, prompt, 20, lost=None) == Missing("2 face(s) found in the source but 1 in the output")
    assert score(embedder, prompt, 99, lost=0.1) == pytest.approx(0.1)
    assert score(embedder, prompt, 20, lost=0.1) == pytest.approx(0.55)


def test_what_cannot_be_told_is_missing_with_its_reason(tmp_path):
    embedder = ByRedness({20: [0], 30: [np.nan]})
    gone = Prompt("e2", "make it night", task="edit", sources=(str(tmp_path / "gone.png"),))
    prompts = [Prompt("p", "a face"), gone, edit(tmp_path, 20)]
    scores = score_all([FaceIdentityReward(embedder)], output(20, 20, 30), prompts)
    reasons = [scores.missing[row, "face_identity"] for row in range(3)]
    assert scores.values_BR.isnan().all()
    for reason, word in zip(reasons, ("no source picture", "gone.png", "NaN"), strict=True):
        assert word in reason


def test_a_source_without_a_face_asks_for_none(tmp_path):
    embedder = ByRedness({20: [0]})
    scores = score_all([FaceIdentityReward(embedder)], output(20, 20), [edit(tmp_path, 10), edit(tmp_path, 20)])
    assert scores.values_BR[:, 0].isnan().tolist() == [True, False] and not scores.missing
    assert missing_share(scores) == 0


def test_erasing_the_face_is_not_rewarded(tmp_path):
    """Four edits of one face, the last without it and otherwise the best: weights 0.6 and 0.4 as for a portrait."""
    embedder = ByRedness({10: [0], 20: [20], 21: [25], 22: [30]})

    def advantages(**options):
        others = FunctionReward("instruction", read=lambda picture, truth: picture[0, 0, 0] / 100)
        composite = Composite((others, FaceIdentityReward(embedder, **options)), (0.6, 0.4))
        prompts = [replace(edit(tmp_path, 10), truth={})] * 4
        scores = composite.score(output(20, 21, 22, 40), prompts)
        weights, group = composite.counting_BR(scores, prompts), torch.zeros(4, dtype=torch.long)
        return group_advantages(scores.values_BR, weights, torch.tensor([0.02, 0.05]), group).advantages_B

    assert advantages(lost=None)[3] > 1.5 > 0.4 > advantages()[3]


def test_the_fingerprint_is_that_of_the_network_and_of_lost():
    embedder, other = ByRedness({}), ByRedness({})
    embedder.fingerprint, other.fingerprint = "a", "b"
    rewards = (FaceIdentityReward(embedder), FaceIdentityReward(other), FaceIdentityReward(embedder, lost=None))
    assert len({reward.fingerprint for reward in rewards}) == 3
    assert FaceIdentityReward(embedder, name="likeness", floor=0.1).fingerprint == rewards[0].fingerprint


@pytest.mark.parametrize("lost", [-0.1, 1.1, float("nan")])
def test_lost_is_a_score(lost):
    with pytest.raises(UserMistake, match="lost"):
        FaceIdentityReward(ByRedness({}), lost=lost)


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("dlib", DlibEmbedder, r"tastemaker\[identity\]"),
        ("onnxruntime", lambda: ArcFaceEmbedder("x.onnx"), r"tastemaker\[identity-onnx\]"),
    ],
)
def test_without_the_extra_one_line_names_it(monkeypatch, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserMistake, match=extra) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("degrees", "scale", "size"), [(0, 1.0, 112), (20, 1.7, 112), (-35, 4.3, 112), (10, 0.8, 224)])
def test_alignment_brings_eyes_and_nose_to_the_template(degrees, scale, size):
    """Discs at where a turned and scaled template has its points are found again at the template's own points."""
    turn = scale * np.exp(1j * np.radians(degrees))
    there = (TEMPLATE - TEMPLATE.mean(0)) @ (1, 1j) * turn + (320 + 300j)
    points = np.stack([there.real, there.imag], axis=1)
    left, right, nose = points
    corner = np.array([3.0, 1.0])
    face = Face((0, 0, 640, 600), np.array([right + corner, right - corner, left - corner, left + corner, nose]))
    y, x = np.mgrid[:600, :640]
    for channel_point, (want_x, want_y) in zip(points, TEMPLATE, strict=True):
        disc = np.hypot(x - channel_point[0], y - channel_point[1]) < 4 * scale
        picture = Image.fromarray((disc * 255).astype(np.uint8)).convert("RGB")
        found = np.asarray(align(picture, face, size).convert("L"), dtype=float)
        rows, columns = np.mgrid[:size, :size]
        centre = np.array([(columns * found).sum(), (rows * found).sum()]) / found.sum()
        assert (centre + 0.5) * 112 / size - 0.5 == pytest.approx([want_x, want_y], abs=0.3)
