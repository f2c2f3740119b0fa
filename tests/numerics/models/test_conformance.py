"""What every adapter has to pass: against its diffusers pipeline, against itself in other batches, and on the way out and in.

A new family gets a row in `families.CASES` and nothing here.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from families import CASES, HEIGHT, SHORT, STEPS, TEXTS, WIDTH, latents, small_sources, sources
from tastemaker.config import LoraPolicy
from tastemaker.data.embeddings import EmbeddingCache
from tastemaker.errors import UserMistake
from tastemaker.flow.transition import log_ratio
from tastemaker.models.adapter import FAMILIES, encoders_to_cpu, load
from tastemaker.models.lora import load_lora, save_lora
from tastemaker.rollout import Sampler, denoise, policy, replay, stored_velocities
from tastemaker.training.start import trained_parameters
from tastemaker.types import Prompt, group_index

SIGMA = torch.tensor([0.9, 0.5, 0.2])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    with small_sources():
        yield request.param


@pytest.fixture(scope="module")
def adapter(case):
    """Shared: leave its weights and its LoRA layers as you found them."""
    return case.fresh()


@pytest.fixture(scope="module")
def encoded(case, adapter):
    return case.encode(adapter)


def noise(adapter, rows: int):
    """Standard normal noise keyed by the step."""
    return lambda step: latents(adapter, rows, seed=7 if step == "init" else 100 + step)


def rollout(adapter, encoded, **options):
    sampler = Sampler(adapter.sigmas(STEPS, HEIGHT, WIDTH), **{"rescale": adapter.rescales_guidance, **options})
    return denoise(adapter, *encoded, group_size=1, sampler=sampler, noise=noise(adapter, len(encoded[0])))


def velocity(adapter, condition):
    with torch.no_grad():
        return adapter.velocity(latents(adapter, len(condition)), SIGMA[: len(condition)], adapter.prefix(condition))


def assert_close(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=0)


# The pipeline


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_ode_rollout_is_the_pipeline_run_on_each_prompt_alone(case, adapter, encoded, guidance):
    final = rollout(adapter, encoded, guidance=guidance).final_BX
    pixels = adapter.decode(final, HEIGHT, WIDTH)
    assert pixels.shape == (3, 3, HEIGHT, WIDTH) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.01
    for row, output_type in enumerate(("latent", "latent", "pt")):
        start = noise(adapter, 3)("init")[row : row + 1]
        expected = case.drawn(adapter.pipeline, row, guidance=guidance, output_type=output_type, latents=start)
        assert_close(pixels[row] if output_type == "pt" else final[row], expected)


def test_prompts_sources_guidance_and_its_rescaling_matter_in_the_fixture(case, adapter, encoded):
    """Else the test above could not fail."""
    plain = rollout(adapter, encoded, guidance=1.0).final_BX
    guided = rollout(adapter, encoded, guidance=4.0).final_BX
    otherwise = rollout(adapter, encoded, guidance=4.0, rescale=not adapter.rescales_guidance).final_BX
    for left, right in ((plain, guided), (guided, otherwise)):
        assert (left - right).abs().mean() > 0.01
    pictures = sources(case.num_sources)
    words = adapter.encode([SHORT] * 3, pictures, height=HEIGHT, width=WIDTH)
    assert (velocity(adapter, words) - velocity(adapter, encoded[0]))[1:].abs().mean() > 0.01
    if pictures:
        swapped = adapter.encode(TEXTS, [pictures[row] for row in (1, 2, 0)], height=HEIGHT, width=WIDTH)
        assert (velocity(adapter, swapped) - velocity(adapter, encoded[0])).abs().mean() > 0.01


@pytest.mark.parametrize(("steps", "height", "width"), [(2, 64, 64), (6, 64, 96), (9, 256, 128)])
def test_sigmas_are_those_of_the_pipelines_own_run_bit_for_bit(case, adapter, steps, height, width):
    case.drawn(adapter.pipeline, 0, num_inference_steps=steps, height=height, width=width)
    sigmas = adapter.sigmas(steps, height, width)
    assert torch.equal(sigmas, adapter.pipeline.scheduler.sigmas) and sigmas.dtype == torch.float32
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()


def test_velocity_is_noise_minus_data_at_sigma(case, adapter, encoded):
    """Along x = (1 - sigma) data + sigma noise that is dx / dsigma: what each step of the pipeline moves along."""
    states = [latents(adapter, 1)]

    def keep(pipeline, step, timestep, values):
        states.append(values["latents"])
        return {}

    case.drawn(adapter.pipeline, 1, latents=states[0], callback_on_step_end=keep)
    sigmas, prefix = adapter.pipeline.scheduler.sigmas, adapter.prefix(encoded[0].select(torch.tensor([1])))
    assert len(states) == len(sigmas) == STEPS + 1
    for n in range(STEPS):
        with torch.no_grad():
            v = adapter.velocity(states[n], sigmas[n : n + 1], prefix)
        assert v.dtype == torch.float32 and v.shape == states[n].shape
        assert_close(states[n] + (sigmas[n + 1] - sigmas[n]) * v, states[n + 1])


def test_pictures_survive_as_well_as_the_vae_lets_them(adapter):
    """Packing, latent statistics and pixel range there and back, against the VAE's own round trip."""
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    vae = adapter.pipeline.vae
    pixels = images * 2 - 1
    if vae.config.get("input_channels", vae.config.get("in_channels", 3)) == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    with torch.no_grad():
        whole = vae.decode(vae.encode(pixels[:, :, None]).latent_dist.mode()).sample[:, :3, 0]
    latents_BX = adapter.encode_images(images)
    assert latents_BX.shape == (2, *adapter.latent_shape(HEIGHT, WIDTH)) and not latents_BX.requires_grad
    assert_close(adapter.decode(latents_BX, HEIGHT, WIDTH), (whole * 0.5 + 0.5).clamp(0, 1))


# Batches


def test_a_prompts_encoding_does_not_depend_on_the_others(case, adapter, encoded):
    lengths = encoded[0].tensors["mask"].sum(1).tolist()
    assert max(lengths) > min(lengths) + 10
    for row, text in enumerate(TEXTS):
        pictures = sources(case.num_sources)
        alone = adapter.encode([text], pictures and pictures[row : row + 1], height=HEIGHT, width=WIDTH)
        assert alone.layout == encoded[0].layout and alone.tensors.keys() == encoded[0].tensors.keys()
        for name, value in alone.tensors.items():
            length = value.shape[1]
            assert torch.equal(encoded[0].tensors[name][row, :length], value[0]), name
            assert not encoded[0].tensors[name][row, length:].any()


def test_a_row_of_a_mixed_batch_is_that_row_alone(adapter, encoded):
    together = velocity(adapter, encoded[0])
    for row in range(3):
        prefix = adapter.prefix(encoded[0].select(torch.tensor([row])))
        with torch.no_grad():
            alone = adapter.velocity(latents(adapter, 3)[row : row + 1], SIGMA[row : row + 1], prefix)
        assert_close(together[row : row + 1], alone)


def test_prefixes_select_twice(adapter, encoded):
    prefix = adapter.prefix(encoded[0])
    twice = prefix.select(torch.tensor([2, 1])).select(torch.tensor([1, 1, 0]))
    assert len(prefix) == len(twice) == 3
    with torch.no_grad():
        got = adapter.velocity(latents(adapter, 3), SIGMA, twice)
        expected = adapter.velocity(latents(adapter, 3), SIGMA, prefix.select(torch.tensor([1, 1, 2])))
    assert torch.equal(got, expected)


def test_cached_embeddings_equal_fresh_ones_and_skip_the_encoder(case, adapter, encoded, tmp_path, monkeypatch):
    prompts = [Prompt(str(row), text, sources=_saved(case, row, tmp_path)) for row, text in enumerate(TEXTS)]

    def cache():
        return EmbeddingCache(adapter, height=HEIGHT, width=WIDTH, folder=tmp_path / "cache")

    fresh = cache().condition(prompts), cache().negative("", prompts)
    monkeypatch.setattr(type(adapter), "encode", None)
    again = cache().condition(prompts), cache().negative("", prompts)
    for expected, first, second in zip(encoded, fresh, again, strict=True):
        assert expected.layout == first.layout == second.layout and hash(second.layout) == hash(first.layout)
        for name, value in expected.tensors.items():
            assert torch.equal(first.tensors[name], value) and torch.equal(second.tensors[name], value), name


def test_encoders_and_the_rest_may_be_on_two_devices(case, encoded):
    """The meta device, on which nothing can be computed, stands for the other one."""
    adapter = case.fresh()
    latents_BX = latents(adapter, 2)
    expected = adapter.decode(latents_BX, HEIGHT, WIDTH)
    pipeline = adapter.pipeline
    encoders_to_cpu(pipeline)
    for part in (adapter.transformer, pipeline.vae.decoder, pipeline.vae.post_quant_conv):
        part.to("meta")
    found = case.encode(adapter)[0]
    assert all(value.device.type == "meta" for value in found.tensors.values())
    adapter.transformer = torch.nn.Linear(1, 1)  # where encodings are given, so that they can be looked at
    for name, value in case.encode(adapter)[0].tensors.items():
        assert torch.equal(value, encoded[0].tensors[name]), name
    other = case.fresh()
    for part in (other.pipeline.text_encoder, other.pipeline.vae.encoder, other.pipeline.vae.quant_conv):
        part.to("meta")
    assert torch.equal(other.decode(latents_BX, HEIGHT, WIDTH), expected)


def _saved(case, row, folder):
    pictures = (sources(case.num_sources) or [[]] * len(TEXTS))[row]
    paths = [folder / f"{row}-{place}.png" for place in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    return tuple(map(str, paths))


# Training


@pytest.mark.parametrize("mode", ["hybrid", "both", "none", "conditional"])
def test_replay_at_the_same_weights_has_ratio_one(case, adapter, mode):
    condition, negative = case.encode(adapter, TEXTS[:2])
    kind = "flow_sde" if case.num_sources else "cps"
    guidance = {"guidance": 1.0 if mode == "none" else 3.0, "rescale": adapter.rescales_guidance, "mode": mode}
    sampler = Sampler(adapter.sigmas(STEPS, HEIGHT, WIDTH), kind, 0.7, steps=(0, 1, 3), **guidance)
    trajectory = denoise(adapter, condition, negative, group_size=2, sampler=sampler, noise=noise(adapter, 4))
    rows = group_index(2, 2)
    prefix = adapter.prefix(condition).select(rows)
    unconditional = adapter.prefix(negative).select(rows if len(negative) > 1 else torch.zeros_like(rows))
    with torch.no_grad():
        log_probs, velocities = replay(adapter, prefix, trajectory, sampler, unconditional=unconditional)
    assert (log_probs - trajectory.log_probs_BS).abs().max() < 1e-6
    assert_close(velocities, trajectory.velocities_BSX)
    assert (trajectory.offsets_BSX is not None) == (mode in ("hybrid", "both"))
    # A slightly different policy is told apart far above that rounding.
    v_uncond = stored_velocities(adapter, unconditional, trajectory).detach() if mode == "both" else None
    old = policy(trajectory, sampler, trajectory.velocities_BSX, v_uncond)
    new = policy(trajectory, sampler, trajectory.velocities_BSX * 1.1, v_uncond)
    assert log_ratio(new, old, trajectory.next_states_BSX.flatten(0, 1)).abs().mean() > 1e-3


def test_the_parameters_that_move_the_velocity_are_those_with_a_gradient(adapter, encoded):
    """Each is moved in turn: one that the velocity depends on must be reached, through the prefix or not."""
    transformer, condition = adapter.transformer, encoded[0].select(torch.tensor([0]))
    plain = _gradients(adapter, encoded[0])
    transformer.enable_gradient_checkpointing()
    try:
        checkpointed = _gradients(adapter, encoded[0])
    finally:
        transformer.disable_gradient_checkpointing()
    base = velocity(adapter, condition)
    moving = {name for name, p in transformer.named_parameters() if _moves(adapter, condition, p, base)}
    assert plain.keys() == checkpointed.keys() == moving and len(moving) > 0.8 * len(list(transformer.parameters()))
    for name, gradient in plain.items():
        assert gradient.isfinite().all() and (checkpointed[name] - gradient).norm() < 1e-5 * gradient.norm(), name


def _gradients(adapter, condition):
    v = adapter.velocity(latents(adapter, 3), SIGMA, adapter.prefix(condition))
    (v * latents(adapter, 3, seed=5)).sum().backward()
    gradients = {name: p.grad for name, p in adapter.transformer.named_parameters() if p.grad is not None and p.grad.any()}
    adapter.transformer.zero_grad(set_to_none=True)
    return gradients


@torch.no_grad()
def _moves(adapter, condition, parameter, base) -> bool:
    before = parameter.clone()
    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)), alpha=0.1)
    moved = not torch.equal(velocity(adapter, condition), base)
    parameter.copy_(before)
    return moved


def test_bfloat16_runs_and_returns_float32(case):
    adapter = case.adapt(case.build().to(dtype=torch.bfloat16))
    v = velocity(adapter, case.encode(adapter)[0])
    assert v.dtype == torch.float32 and v.isfinite().all()
    assert adapter.decode(latents(adapter, 1), HEIGHT, WIDTH).dtype == torch.float32


# Folders


def test_a_lora_of_the_default_settings_trains_reloads_and_draws_the_same_in_plain_diffusers(case, encoded, tmp_path):
    adapter = case.fresh()
    base = rollout(adapter, encoded, guidance=3.0).final_BX
    parameters = trained_parameters(LoraPolicy(rank=4, alpha=16), adapter)
    optimiser = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        adapter.velocity(latents(adapter, 3), SIGMA, adapter.prefix(encoded[0])).square().mean().backward()
        optimiser.step()
    moved = [name for name, value in adapter.transformer.named_parameters() if ".lora_B." in name and value.any()]
    assert all(any(f".{target}.lora_B." in name for name in moved) for target in adapter.lora_targets), moved
    final = rollout(adapter, encoded, guidance=3.0).final_BX
    assert (final - base).abs().mean() > 0.01
    save_lora(adapter, tmp_path)

    again = case.fresh()
    load_lora(again, tmp_path)
    assert_close(velocity(again, encoded[0]), velocity(adapter, encoded[0]))
    plain = case.build()
    plain.load_lora_weights(str(tmp_path))
    start = noise(adapter, 3)("init")[1:2]
    picture = case.drawn(plain, 1, guidance=3.0, output_type="pt", latents=start)
    assert_close(adapter.decode(final, HEIGHT, WIDTH)[1], picture)


def test_a_saved_pipeline_opens_with_plain_diffusers_and_with_load(case, adapter, encoded, tmp_path):
    adapter.pipeline.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)) is type(adapter.pipeline)
    opened = load(tmp_path, device="cpu", dtype=torch.float32)
    assert type(opened) is type(adapter)
    family = FAMILIES[type(adapter.pipeline).__name__]
    assert (opened.family, opened.tasks) == (family.name, family.tasks)
    assert torch.equal(velocity(opened, case.encode(opened)[0]), velocity(adapter, encoded[0]))
    for part in (opened.pipeline.text_encoder, opened.pipeline.vae):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


# Mistakes


def test_wrong_sizes_and_sources_that_do_not_belong_are_refused_with_the_rule(case, adapter):
    pictures = sources(case.num_sources, 1)
    with pytest.raises(UserMistake, match="multiples of"):
        adapter.encode([SHORT], pictures, height=100, width=64)
    with pytest.raises(UserMistake, match="2 prompts came with 1"):
        adapter.encode([SHORT, SHORT], [[]], height=HEIGHT, width=WIDTH)
    assert ("edit" if case.num_sources else "t2i") in adapter.tasks
    for task, unfit in (("edit", sources(1, 1)), ("t2i", None)):
        if task not in adapter.tasks:
            with pytest.raises(UserMistake, match="source picture"):
                adapter.encode([SHORT], unfit, height=HEIGHT, width=WIDTH)
