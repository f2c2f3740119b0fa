"""The builder's short cuts equal the classes they cut through, and its trainings resume exactly."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.miniature.builder import base, fit, vae
from tastemaker.miniature.builder.assembly import empty_pipeline
from tastemaker.miniature.builder.build import Plan, build
from tastemaker.miniature.builder.optimiser import Muon, Optimiser, orthogonalise, split
from tastemaker.miniature.builder.parts import build_vae
from tastemaker.miniature.builder.tokenizer import build_tokenizer
from tastemaker.miniature.world.wording import pieces, vocabulary
from tastemaker.runtime.distributed import Ranks
from twins import Twin


@pytest.fixture(scope="module")
def adapter():
    torch.manual_seed(0)
    return empty_pipeline(build_vae())


def pictures(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_orthogonalise_flattens_the_singular_values():
    torch.manual_seed(0)
    for shape in ((8, 8), (4, 32), (32, 4)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape) * 100))
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_descends_and_takes_kernels():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
    optimiser = Muon([kernel], lr=0.1)
    before = float(kernel.detach().square().sum())
    for _ in range(40):
        kernel.square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert float(kernel.detach().square().sum()) < 0.1 * before


def test_split_takes_every_trainable_parameter_once():
    model = build_vae()
    model.encoder.requires_grad_(False)
    matrices, rest = split(model, never=("post_quant_conv",))
    every = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in matrices} | {id(p) for p in rest} == every and len(matrices) + len(rest) == len(every)


def test_every_word_is_one_token_and_signs_are_read_letter_by_letter():
    tokenizer = build_tokenizer(vocabulary())
    for text in ("three red circles left of a blue square", 'a sign that says "SALE" in red, pixel art'):
        tokens = [token.replace("Ġ", "") for token in tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)]
        assert [token for token in tokens if token] == pieces(text)
    assert tokenizer.decode(tokenizer("Ünïcode ☂ 42").input_ids) == "Ünïcode ☂ 42"


def test_vae_short_cuts_equal_the_class():
    torch.manual_seed(0)
    model = build_vae().eval()
    x = vae.to_model(pictures())
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
        mean, _ = vae.encode(model, x)
        assert torch.allclose(posterior.mode(), mean, atol=1e-6)
        assert torch.allclose(model.decode(mean).sample, vae.decode(model, mean).clamp(-1, 1), atol=1e-6)


def test_vision_patches_are_the_processors(adapter):
    shown = pictures()
    expected = adapter.pipeline.processor.image_processor(images=[Image.fromarray(p) for p in shown], return_tensors="pt")
    assert torch.equal(expected["pixel_values"], base.vision_patches(shown))


def test_batched_embedding_equals_the_pipelines_prompt_by_prompt(adapter):
    trainer = base.BaseTrainer(adapter, draws=2, muon_lr=0.01, adam_lr=1e-3)
    texts, shown = ["make it blue and round", "x"], pictures(2)
    sources = [[Image.fromarray(picture)] for picture in shown]
    template = adapter.pipeline.prompt_template_ti2i.replace("<|image_pad|>", "<|image_pad|>" * 4)
    for expected, found in (
        (
            adapter.encode(texts, sources, height=64, width=64),
            trainer.embed(adapter.pipeline.processor.tokenizer([template.format(t) for t in texts]).input_ids, shown),
        ),
        (
            adapter.encode(texts, height=64, width=64),
            trainer.embed(
                adapter.pipeline.processor.tokenizer([adapter.pipeline.prompt_template_t2i.format(t) for t in texts]).input_ids,
                None,
            ),
        ),
    ):
        assert expected.layout == found.layout
        assert torch.equal(expected.tensors["slots"], found.tensors["slots"])
        assert torch.equal(expected.tensors["mask"].bool(), found.tensors["mask"])
        assert torch.allclose(expected.tensors["embeds"], found.tensors["embeds"], atol=1e-6)


def test_noise_levels_of_a_prompt_are_spread(adapter):
    trainer = base.BaseTrainer(adapter, draws=4, muon_lr=0.01, adam_lr=1e-3)
    sigmas = trainer._sigmas(500, torch.Generator().manual_seed(0)).view(500, 4)
    assert bool((sigmas.diff(dim=1) > 0).all()) and float(sigmas.min()) > 0 and float(sigmas.max()) < 1
    assert abs(float(torch.logit(sigmas).mean()) - base.SIGMA_MEAN) < 0.05


def test_drawn_rows_have_one_length_and_the_longest_keeps_its_words():
    ids = [[0] * (5 + n % 7) for n in range(200)]
    examples = base.Examples(ids, [0], torch.zeros(200, 16, 64))
    for seed in range(20):
        rows, drop = examples.draw(16, np.random.default_rng(seed))
        lengths = [len(ids[row]) for row in rows]
        assert max(lengths) == lengths[0] == 11 and not drop[0] and len(rows) == len(drop) == 16


def toy(adapter_seed=0, **how):
    torch.manual_seed(adapter_seed)
    trainer = base.BaseTrainer(empty_pipeline(build_vae()), draws=2, muon_lr=0.01, adam_lr=1e-3, **how)
    draw = np.random.default_rng(0)
    ids = [[int(n) for n in draw.integers(7, 200, 20)] for _ in range(12)]
    return trainer, base.Examples(ids, ids[0], torch.randn(12, 16, 64))


def test_a_base_with_passes_in_bf16_is_kept_in_float32_and_learns_what_float32_learns():
    exact, examples = toy()
    rounded, _ = toy(dtype=torch.bfloat16)
    begun = {name: value.clone() for name, value in exact.ema.items()}
    for trainer in (exact, rounded):
        base.train(trainer, [(examples, 4)], steps=3, report=lambda step, loss: None)
    assert {value.dtype for value in rounded.module.parameters()} == {torch.bfloat16}
    assert all(
        torch.equal(value, rounded.tensors()["live"][name].bfloat16()) for name, value in rounded.module.named_parameters()
    )
    moved = torch.cat([(exact.ema[name] - value).flatten() for name, value in begun.items()])
    also = torch.cat([(rounded.ema[name] - value).flatten() for name, value in begun.items()])
    assert rounded.ema.keys() == begun.keys() and also.dtype == torch.float32
    assert float(torch.cosine_similarity(moved, also, dim=0)) > 0.9
    buffers = zip(exact.module.buffers(), rounded.module.buffers(), strict=True)
    assert all(torch.equal(one, other) for one, other in buffers)


def test_processes_share_the_prompts_and_take_the_mean_of_their_gradients():
    both, examples = toy(ranks=Twin(rank=1, count=2))
    one, _ = toy(ranks=Ranks(rank=1, count=1))
    other, _ = toy(ranks=Ranks(rank=0, count=1))
    for trainer, prompts in ((both, 4), (one, 2), (other, 2)):
        base.train(trainer, [(examples, prompts)], steps=1, report=lambda step, loss: None)
    assert all(torch.allclose(value, one.ema[name], atol=1e-6) for name, value in both.ema.items())
    assert any(not torch.allclose(value, other.ema[name], atol=1e-6) for name, value in both.ema.items())


def test_base_training_resumes_exactly():
    whole, examples = toy()
    losses = []
    base.train(whole, [(examples, 4)], steps=4, report=lambda step, loss: losses.append(loss))
    first, _ = toy()
    saved = {}

    def stop_after_two(step, loss):
        if step == 2:
            saved.update(
                {group: {name: value.clone() for name, value in named.items()} for group, named in first.tensors().items()}
            )

    base.train(first, [(examples, 4)], steps=4, report=stop_after_two)
    second, _ = toy(adapter_seed=1)
    second.restore(saved)
    base.train(second, [(examples, 4)], steps=4, start=2, report=lambda step, loss: None)
    for name, value in whole.ema.items():
        assert torch.equal(value, second.ema[name]), name
    assert len(losses) == 4


def test_optimiser_state_survives_a_round_trip_of_plain_tensors():
    layer = torch.nn.Linear(3, 3)
    optimiser = Optimiser([layer.weight], [layer.bias], muon_lr=0.1, adam_lr=0.1, decay_from=0.5)
    layer(torch.ones(3)).sum().backward()
    optimiser.step(0.0, 0)
    other = Optimiser([layer.weight], [layer.bias], muon_lr=0.1, adam_lr=0.1, decay_from=0.5)
    other.restore(optimiser.state())
    assert optimiser.state().keys() == other.state().keys()
    assert all(torch.equal(value, other.state()[name]) for name, value in optimiser.state().items())


def test_seconds_of_a_part_add_up_over_the_calls_it_took(tmp_path, monkeypatch):
    from tastemaker.miniature.builder import build as building

    clock = iter([10.0, 13.0, 100.0, 104.5, 200.0, 201.0])
    monkeypatch.setattr(building, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(KeyboardInterrupt), building._timed(tmp_path, "base"):
        raise KeyboardInterrupt
    with building._timed(tmp_path, "base"):
        pass
    with building._timed(tmp_path, "vae"):
        pass
    assert building._seconds(tmp_path) == {"base": 7.5, "vae": 1.0}


@pytest.mark.slow
def test_a_toy_build_gives_a_folder_that_plain_diffusers_runs(tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline

    from tastemaker.miniature.builder import build as building

    monkeypatch.setattr(fit, "_compile", lambda transformer, console: None)
    monkeypatch.setattr(building, "how_many", lambda wanted, device: 1)  # a helper would not know of what is patched here
    plan = Plan(
        t2i_drawings=600,
        edit_drawings=24,
        vae_samples=64,
        decoder_samples=32,
        base_steps=2,
        t2i_prompts=4,
        edit_prompts=4,
        draws=2,
    )
    judged: list[object] = []
    monkeypatch.setattr(building, "_build_judges", lambda *given: judged.append(given[1]))
    folder = build(tmp_path, plan, measured=4)
    assert judged == [folder]
    spent = json.loads((folder / "build.json").read_text())["seconds"]
    assert list(spent) == ["drawings", "vae", "decoder", "latents", "base"] and spent["base"] > 0
    assert "| VAE round trip | 4 |" in (folder / "README.md").read_text()
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(prompt="a red circle", num_inference_steps=2, output_resolution=64).images[0]
    assert image.size == (64, 64)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 16 * 2**20
