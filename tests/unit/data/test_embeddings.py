import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from tastemaker.data.embeddings import EmbeddingCache, encoder_key
from tastemaker.types import Condition, Prompt

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


def test_an_encoding_is_on_the_disk_before_it_has_its_name(tmp_path, qwen_image21, monkeypatch):
    """A power cut would otherwise leave a name whose content was never written."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda source, target: (events.append("rename"), replace(source, target)))
    (first, _), _ = prompts(tmp_path)
    EmbeddingCache(qwen_image21, height=SIDE, width=SIDE, folder=tmp_path / "cache").warm([first])
    assert events == ["fsync", "rename"] and len(list((tmp_path / "cache").iterdir())) == 1


def test_the_negative_branch_sees_the_source_pictures(tmp_path, qwen_image21):
    texts, edits = prompts(tmp_path)
    cache = EmbeddingCache(qwen_image21, height=SIDE, width=SIDE)
    assert len(cache.negative("", texts)) == 1
    assert torch.equal(cache.negative("", edits).tensors["sources"], cache.condition(edits).tensors["sources"])


def test_another_dtype_or_family_is_another_entry(tmp_path, qwen_image21):
    """A run in float32 must not learn from embeddings that were rounded to bfloat16."""
    (first, _), _ = prompts(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        EmbeddingCache(replace(qwen_image21, dtype=dtype), height=SIDE, width=SIDE, folder=tmp_path / "cache").warm([first])
    other = replace(qwen_image21)
    other.family = "another"
    EmbeddingCache(other, height=SIDE, width=SIDE, folder=tmp_path / "cache").warm([first])
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


class Part(nn.Module):
    """Stands for an encoder on a device: tells where it is moved to."""

    def __init__(self):
        super().__init__()
        self.moves = []

    def to(self, place):
        self.moves.append(place)
        return self


class Fake:
    """An adapter on `device` whose encodings are 8 kB each; counts what it encodes, and where."""

    family, dtype = "fake", torch.float32

    def __init__(self, device="cpu"):
        self.transformer = nn.Linear(1, 1, device=device)
        vae = SimpleNamespace(encoder=Part(), quant_conv=Part(), decoder=Part())
        self.pipeline = SimpleNamespace(text_encoder=Part(), vae=vae)
        self.encoded = []

    def encode(self, texts, sources=None, *, height, width):
        self.encoded.append((texts[0], self.pipeline.text_encoder.moves[-1:] or [None]))
        return Condition({"embeds": torch.full((1, 1, 2048), float(len(texts[0])))})


def words(count):
    return [Prompt(str(n), "x" * (n + 1)) for n in range(count)]


def test_memory_is_bounded_where_the_disk_has_the_rest(tmp_path):
    some, adapter = words(5), Fake()
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=tmp_path, max_bytes=3 * 8192)
    for prompt in (*some[:3], some[0], *some[3:]):
        cache.condition([prompt])
    assert len(adapter.encoded) == 5 and cache._bytes == 3 * 8192
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    cache.condition([some[0], some[3], some[4]])
    assert len(adapter.encoded) == 5, "these were used last, and stayed"
    assert cache.condition([some[1]]).tensors["embeds"][0, 0, 0] == 2 and len(adapter.encoded) == 6
    lone = EmbeddingCache(adapter, height=SIDE, width=SIDE, max_bytes=1)
    lone.warm(some)
    lone.condition(some)
    assert len(adapter.encoded) == 11, "without a folder there is nothing to fall back on"


def test_a_source_is_read_once(tmp_path, monkeypatch):
    _, (edit,) = prompts(tmp_path)
    read, opened = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how: read.append(path.name) or opened(path, *how))
    cache = EmbeddingCache(Fake(), height=SIDE, width=SIDE)
    for _ in range(3):
        cache.by_layout([edit])
        cache.condition([edit])
        cache.negative("", [edit])
        assert read == ["a.png"] * 3, "once for its name, and once for each of two encodings"
    os.utime(tmp_path / "a.png", ns=(1, 1))
    cache.condition([edit])
    assert read == ["a.png"] * 4, "it may have changed; it has not, and is not encoded again"


def test_the_key_of_an_encoder_reads_no_file_whole(tmp_path, monkeypatch):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read whole"))
    before = encoder_key(tmp_path)
    with open(tmp_path / "vae" / "model.safetensors", "ab") as stream:
        stream.write(b".")
    assert encoder_key(tmp_path) != before


def test_on_an_accelerator_all_is_encoded_before_the_encoders_leave(tmp_path):
    some, adapter, heard = words(3), Fake("meta"), []
    edit = Prompt("e", "edit", task="edit", sources=prompts(tmp_path)[1][0].sources)
    cache = EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=tmp_path / "cache")
    cache.condition(some[:1])
    cache.encode_ahead([*some, some[0], edit], ["no"], lambda *told: heard.append(told))
    assert sorted(text for text, _ in adapter.encoded) == sorted(["x", "xx", "xxx", "edit", "no", "no"])
    assert all(where == [None] for _, where in adapter.encoded)
    assert heard == [(done, 5) for done in range(1, 6)]
    parts = (adapter.pipeline.text_encoder, adapter.pipeline.vae.encoder, adapter.pipeline.vae.quant_conv)
    assert all(part.moves == ["cpu"] for part in parts) and not adapter.pipeline.vae.decoder.moves
    cache.negative("no", [edit])
    cache.negative("no", some)
    cache.condition(some)
    assert len(adapter.encoded) == 6
    cache.condition([Prompt("late", "never heard of")])
    assert adapter.encoded[-1] == ("never heard of", ["cpu"])


def test_on_the_cpu_nothing_is_encoded_before_it_is_used(tmp_path):
    adapter = Fake()
    EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=tmp_path).encode_ahead(words(3))
    assert not adapter.encoded and not adapter.pipeline.text_encoder.moves


def test_processes_that_share_a_folder_share_the_work(tmp_path):
    """The second begins elsewhere; what the first has done meanwhile it leaves out."""
    first, second, some = Fake("meta"), Fake("meta"), words(4)
    one, two = (EmbeddingCache(adapter, height=SIDE, width=SIDE, folder=tmp_path) for adapter in (first, second))
    two.warm([*some[2:], *some[:2]], progress=lambda done, total: one.warm(some) if done == 1 else None)
    assert [text for text, _ in second.encoded] == ["xxx"] and len(first.encoded) == 3
