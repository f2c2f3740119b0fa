import torch
from PIL import Image

from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.types import Prompt

SIDE = 64


def prompts(folder):
    Image.new("RGB", (SIDE, SIDE), (200, 20, 20)).save(folder / "a.png")
    return [Prompt("1", "make it green"), Prompt("2", "a red circle on a blue background")], [
        Prompt("3", "make it green", task="edit", sources=(str(folder / "a.png"),))
    ]


def same(left, right):
    assert left.layout == right.layout and left.tensors.keys() == right.tensors.keys()
    return all(torch.equal(value, right.tensors[name]) for name, value in left.tensors.items())


def test_another_encoder_size_or_source_is_another_entry(tmp_path, qwen_image21):
    (first, _), (edit,) = prompts(tmp_path)
    cache = EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=tmp_path / "cache")
    cache.warm([first, edit])
    other = EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=tmp_path / "cache", encoder_key="retrained")
    other.warm([first])
    EmbeddingCache(qwen_image21, height=32, width=32, folder=tmp_path / "cache").warm([first])
    Image.new("RGB", (SIDE, SIDE), (20, 20, 200)).save(tmp_path / "a.png")
    EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=tmp_path / "cache").warm([edit])
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 5


def test_a_damaged_file_is_encoded_again(tmp_path, qwen_image21):
    (first, _), _ = prompts(tmp_path)
    cache = tmp_path / "cache"
    fresh = EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=cache).condition([first])
    for path in cache.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert same(EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=cache).condition([first]), fresh)


def test_the_negative_branch_sees_the_source_pictures(tmp_path, qwen_image21):
    texts, edits = prompts(tmp_path)
    cache = EmbeddingCache(qwen_image21, height=SIDE, width=SIDE)
    assert len(cache.negative("", texts)) == 1
    assert torch.equal(cache.negative("", edits).tensors["sources"], cache.condition(edits).tensors["sources"])
