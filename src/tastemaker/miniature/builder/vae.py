"""Trains the miniature's VAE: 64x64 pictures to 4x4 tokens of 64 channels and back.

The loss is on pixels only (absolute and squared error) with a very light KL: drawings of flat colour need neither an
adversary nor a perceptual network, and the verdicts of the oracle after the round trip are the test that counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage21
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import _patchify, _unpatchify
from torch import Tensor

from tastemaker.miniature.builder.optimiser import Optimiser, split
from tastemaker.runtime.distributed import ALONE, Ranks

KL_WEIGHT = 3e-5
SQUARED_WEIGHT = 4.0


def to_model(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to what the VAE reads: float32 (B, 4, 1, H, W) in [-1, 1], opaque alpha."""
    rgb = torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1).unsqueeze(2)


def encode(vae: AutoencoderKLQwenImage21, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance. The class's own `encode` without its video feature cache: the same numbers, fewer copies."""
    mean, log_variance = vae.quant_conv(vae.encoder(_patchify(x, vae.config.patch_size))).chunk(2, dim=1)
    return mean, log_variance.clamp(-12, 4)


def decode(vae: AutoencoderKLQwenImage21, latents: Tensor) -> Tensor:
    """Without the class's clamp to [-1, 1], which would stop the gradient of every overshooting pixel."""
    return _unpatchify(vae.decoder(vae.post_quant_conv(latents)), vae.config.patch_size)


def psnr(vae: AutoencoderKLQwenImage21, pictures: np.ndarray, batch: int = 64) -> float:
    """Decibels over all pixels and channels of all pictures (from the mean squared error, not a mean of per-picture dB)."""
    error = 0.0
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            x = to_model(pictures[start : start + batch]).to(vae.device)
            rebuilt = decode(vae, encode(vae, x)[0]).clamp(-1, 1)
            error += float(((rebuilt - x)[:, :3] / 2).square().mean()) * len(x)
    return float(-10 * np.log10(error / len(pictures)))


def loss_of(vae: AutoencoderKLQwenImage21, x: Tensor, noise: torch.Generator) -> Tensor:
    mean, log_variance = encode(vae, x)
    latents = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=noise).to(mean.device)
    error = decode(vae, latents) - x
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error.abs().mean() + SQUARED_WEIGHT * error.square().mean() + KL_WEIGHT * divergence


def train(
    vae: AutoencoderKLQwenImage21,
    pictures: np.ndarray,
    *,
    samples: int,
    batch: int = 64,
    seed: int = 0,
    decoder_only: bool = False,
    start: int = 0,
    restored: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
    report: Callable[[int, float, Optimiser], None],
) -> None:
    """`samples` pictures in all, from step `start`; `report(step, loss, optimiser)` logs and checkpoints.

    `decoder_only` polishes the decoder and leaves the encoder, and so every latent a transformer has learnt, as it is.
    Convolutions are in `dtype`. Of several processes each has its part of the `batch`, and reports its own loss.
    """
    for module in vae.modules():  # channels last makes these convolutions a fifth faster on a CPU
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    frozen = ("encoder", "quant_conv") if decoder_only else ()
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    optimiser = Optimiser(*split(vae), muon_lr=0.012, adam_lr=2e-3, decay_from=0.3)
    if restored:
        optimiser.restore(restored)
    steps = samples // batch
    kind, low = vae.device.type, dtype != torch.float32
    for step in range(start, steps):
        draw = np.random.default_rng((seed, step, ranks.rank))
        rows = np.sort(draw.choice(len(pictures), batch // ranks.count, replace=False))
        noise = torch.Generator().manual_seed((seed * 1_000_003 + step) * ranks.count + ranks.rank)
        with torch.autocast(kind, dtype, enabled=low):
            loss = loss_of(vae, to_model(pictures[rows]).to(vae.device), noise)
        (loss / ranks.count).backward()
        ranks.add_up(optimiser.parameters)
        optimiser.step(step / steps, step)
        report(step + 1, float(loss.detach()), optimiser)


def latent_statistics(vae: AutoencoderKLQwenImage21, pictures: np.ndarray) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation of the latents, for `latents_mean` and `latents_std` of the config."""
    with torch.no_grad():
        means = torch.cat([encode(vae, to_model(pictures[i : i + 64]).to(vae.device))[0] for i in range(0, len(pictures), 64)])
    flat = means.transpose(0, 1).flatten(1)
    return flat.mean(1).tolist(), flat.std(1).tolist()


def normalised_latents(vae: AutoencoderKLQwenImage21, pictures: np.ndarray, mean: Tensor, std: Tensor) -> Tensor:
    """(N, 16, 64) float16 on the CPU: the modes of the latents, normalised per channel, tokens row by row."""
    found = torch.empty(len(pictures), (pictures.shape[1] // 16) * (pictures.shape[2] // 16), len(mean), dtype=torch.float16)
    with torch.no_grad():
        for start in range(0, len(pictures), 64):
            modes = encode(vae, to_model(pictures[start : start + 64]).to(vae.device))[0].flatten(2).transpose(1, 2).cpu()
            found[start : start + len(modes)] = ((modes - mean) / std).half()
    return found
