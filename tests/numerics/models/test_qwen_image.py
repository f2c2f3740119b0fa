"""What is Qwen-Image's and Qwen-Image-Edit-Plus's own; what all families do is in test_conformance.py."""

from __future__ import annotations

import pytest
import torch

from families import HEIGHT, LONG, SHORT, WIDTH, latents, small_sources, sources, token_types
from tastemaker.errors import UserMistake
from tastemaker.models import qwen_image, qwen_image_edit
from tastemaker.models.adapter import collate
from tiny import picture, tiny_qwen_image, tiny_qwen_image_edit_plus


@pytest.fixture(scope="module")
def t2i():
    return qwen_image.adapt(tiny_qwen_image())


@pytest.fixture
def edit():
    with small_sources():
        yield qwen_image_edit.adapt(tiny_qwen_image_edit_plus())


def test_a_prompt_is_cut_where_the_pipelines_call_cuts_it(t2i):
    text = " ".join([LONG] * 40)
    condition = t2i.encode([text], height=HEIGHT, width=WIDTH)
    start = latents(t2i, 1)
    arguments = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 2, "latents": start, "output_type": "latent"}
    images = t2i.pipeline(prompt=text, **arguments).images
    x, sigmas = start, t2i.sigmas(2, HEIGHT, WIDTH)
    for n in range(2):
        with torch.no_grad():
            x = x + (sigmas[n + 1] - sigmas[n]) * t2i.velocity(x, sigmas[n : n + 1], t2i.prefix(condition))
    assert condition.tensors["embeds"].shape[1] == 512
    torch.testing.assert_close(x, images, atol=1e-5, rtol=0)


def test_a_batch_without_padding_has_no_mask_and_the_same_velocity(t2i):
    condition = t2i.encode([SHORT, LONG], height=HEIGHT, width=WIDTH)
    alone = t2i.prefix(condition.select(torch.tensor([0])))
    assert "mask" not in alone.tensors and "mask" in t2i.prefix(condition).tensors
    assert alone.tensors["embeds"].shape[1] < condition.tensors["embeds"].shape[1]


@pytest.mark.parametrize("option", ["guidance_embeds", "use_additional_t_cond", "use_layer3d_rope"])
def test_transformers_of_other_pipelines_are_refused(option):
    pipeline = tiny_qwen_image()
    pipeline.transformer.register_to_config(**{option: True})
    with pytest.raises(UserMistake, match=option):
        qwen_image.adapt(pipeline)


def test_the_encoder_is_told_which_tokens_are_pictures(edit):
    """The pipeline forgets to: should this fail, it no longer does, and `families.token_types` and our own encoding can go."""
    (pictures,) = sources(1, 1)
    small = [edit.pipeline.image_processor.resize(pictures[0], 64, 160)]
    told = edit._embed(SHORT, small)
    assert not torch.allclose(edit.pipeline.encode_prompt([SHORT], small)[0], told, atol=1e-2)
    with token_types(edit.pipeline):
        assert torch.equal(edit.pipeline.encode_prompt([SHORT], small)[0], told)


def test_sources_keep_their_shape_at_the_pipelines_sizes_whatever_the_target(monkeypatch):
    """About 384 x 384 pixels for the text encoder and 1024 x 1024 for the latents, in multiples of 32."""
    adapter, seen = qwen_image_edit.adapt(tiny_qwen_image_edit_plus()), []
    monkeypatch.setattr(
        adapter, "_embed", lambda text, pictures: seen.extend(p.size for p in pictures) or torch.zeros(1, 3, 64)
    )
    monkeypatch.setattr(adapter, "_encode_pixels", lambda pixels: seen.append(tuple(pixels.shape)) or torch.zeros(1, 4, 16))
    condition = adapter.encode([SHORT], [[picture(0, 300, 150)]], height=HEIGHT, width=WIDTH)
    assert seen == [(544, 256), (1, 3, 736, 1440)]
    assert condition.layout == ((1, 4, 6), (1, 46, 90))


def test_zero_cond_t_keeps_the_sources_at_sigma_zero():
    """Edit-2511: the same weights give another velocity, and a target without sources the same one."""
    plain, zero = (qwen_image_edit.adapt(tiny_qwen_image_edit_plus(zero_cond_t=z)) for z in (False, True))
    with small_sources():
        condition = plain.encode([SHORT], sources(1, 1), height=HEIGHT, width=WIDTH)
    x, sigma = latents(plain, 1), torch.tensor([0.7])
    with torch.no_grad():
        left, right = (one.velocity(x, sigma, one.prefix(condition)) for one in (plain, zero))
    assert (left - right).abs().mean() > 1e-3


def test_edits_that_cannot_be_encoded_or_batched_are_refused(edit):
    def encode(text, *pictures):
        return edit.encode([text], [pictures], height=HEIGHT, width=WIDTH)

    with pytest.raises(UserMistake, match="'red' has none"):
        edit.encode([SHORT], height=HEIGHT, width=WIDTH)
    with pytest.raises(UserMistake, match="stands for a picture"):
        encode("put <|image_pad|> here", picture(0))
    with pytest.raises(UserMistake, match="too narrow"):
        encode(SHORT, picture(0, 8, 4000))
    with pytest.raises(UserMistake, match="cannot share a batch"):
        collate([encode(SHORT, picture(0)), encode(SHORT, picture(0), picture(1))])


def test_pictures_with_transparency_are_taken(edit):
    opaque = edit.encode([SHORT], [[picture(0)]], height=HEIGHT, width=WIDTH)
    transparent = edit.encode([SHORT], [[picture(0).convert("RGBA")]], height=HEIGHT, width=WIDTH)
    assert torch.equal(opaque.tensors["sources"], transparent.tensors["sources"])
