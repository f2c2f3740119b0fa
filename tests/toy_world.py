"""A world of coloured discs and a model of a few thousand weights for it: the real training loop learns something in a second.

A prompt names a hue; a picture is a disc on grey. A latent is the disc's colour, as a vector in the plane of hues whose length
is the saturation, and its place. The base draws the hue asked for in about half of its pictures. `hue` is an honest reward,
`loud` one that can be bought: the fuller the colour the better, whatever the prompt. Right is a colour near the one asked for,
neither another hue nor far too full.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache

import torch
from torch import nn

from tastemaker.rollout import Sampler, denoise
from tastemaker.types import Condition, Prompt

SIDE, HUES, NEAR = 32, 12, 0.55
ANGLES = torch.arange(3) * 2 * math.pi / 3
TO_RGB = 0.3 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
PROMPTS = [Prompt(f"hue-{n}", f"hue {n}", truth={"hue": n}) for n in (0, 5, 10, 3, 8, 1, 6, 11, 4, 9, 2, 7)]
"""Neighbours are far apart, for the monitor swaps each with the next."""


def direction(hues):
    angle = torch.as_tensor(hues, dtype=torch.float32) * 2 * math.pi / HUES
    return torch.stack([angle.cos(), angle.sin()], -1)


class Field(nn.Module):
    """Velocity of a latent of 4 numbers, given sigma and the hue."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))

    def forward(self, x_BX, sigma_B, hue_B2):
        sigma_B1 = sigma_B[:, None]
        return self.layers(torch.cat([x_BX, hue_B2, sigma_B1, sigma_B1**2], 1))


class ToyAdapter:
    """The protocol of a model family, without a pipeline."""

    family, pipeline, lora_targets = "toy", None, ()
    tasks, rescales_guidance, dtype = ("t2i",), False, torch.float32

    def __init__(self):
        self.transformer = deepcopy(base())

    def encode(self, texts, sources=None, *, height, width):
        return Condition({"hue": direction([int(text.split()[1]) for text in texts])[:, None]})

    def latent_shape(self, height, width):
        return (4,)

    def sigmas(self, num_steps, height, width):
        return torch.linspace(1, 0, num_steps + 1)

    def prefix(self, condition):
        return condition

    def velocity(self, x_BX, sigma_B, prefix):
        return self.transformer(x_BX, sigma_B, prefix.tensors["hue"][:, 0])

    def decode(self, x_BX, height, width):
        y, x = torch.meshgrid(torch.linspace(-2, 2, SIDE), torch.linspace(-2, 2, SIDE), indexing="ij")
        far_BHW = (x - x_BX[:, 2, None, None]) ** 2 + (y - x_BX[:, 3, None, None]) ** 2
        disc_BHW = torch.sigmoid(8 * (1 - far_BHW))
        return (0.5 + (x_BX[:, :2] @ TO_RGB.T)[:, :, None, None] * disc_BHW[:, None]).clamp(0, 1)

    def encode_images(self, images):
        return torch.cat([colour(images), torch.zeros(len(images), 2)], 1)


def colour(images):
    """(B, 2) the disc's colour, from the pixels: a disc has about 49 of 256 parts of the picture."""
    return (images - 0.5).mean((2, 3)) @ torch.linalg.pinv(TO_RGB).T / 0.196


def wanted(prompts):
    return direction([prompt.truth["hue"] for prompt in prompts])


class Hue:
    """Falls off with the distance of the disc's colour from the one asked for."""

    name, low, high, floor = "hue", 0.0, 1.0, 0.02

    def score(self, images, prompts):
        return (-((colour(images) - wanted(prompts)) ** 2).sum(1) / 0.5).exp().tolist()


class Loud:
    """How full the colours are."""

    name, low, high, floor = "loud", 0.0, 1.0, 0.005

    def score(self, images, prompts):
        return (images.amax(1) - images.amin(1)).mean((1, 2)).tolist()


class Right:
    """Whether the colour is near enough."""

    name, low, high, floor = "right", 0.0, 1.0, 0.02

    def score(self, images, prompts):
        return ((colour(images) - wanted(prompts)).norm(dim=1) < NEAR).double().tolist()


def share_right(adapter, count=60):
    """Of `count` pictures of each prompt, from the same noise for any weights: so that its error is below 0.02."""
    prompts = [prompt for prompt in PROMPTS for _ in range(count)]
    noise = torch.randn(len(prompts), 4, generator=torch.Generator().manual_seed(1))
    condition = adapter.encode([prompt.text for prompt in prompts], height=SIDE, width=SIDE)
    sampler = Sampler(adapter.sigmas(6, SIDE, SIDE))
    x = denoise(adapter, condition, None, group_size=1, sampler=sampler, noise=lambda where: noise).final_BX
    return torch.tensor(Right().score(adapter.decode(x, SIDE, SIDE), prompts)).mean().item()


@cache
def base() -> Field:
    """Flow matching for two seconds: half of the data have the hue asked for, the others any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = Field()
        optimiser = torch.optim.Adam(field.parameters(), lr=4e-3)
        for step in range(800):
            optimiser.param_groups[0]["lr"] = 4e-3 * (1 - step / 800)
            hues = torch.randint(HUES, (256,))
            drawn = torch.where(torch.rand(256) < 0.55, hues.float(), HUES * torch.rand(256))
            colours = direction(drawn + 0.5 * torch.randn(256)) * (1 + 0.2 * torch.randn(256, 1))
            data = torch.cat([colours, 0.4 * torch.randn(256, 2)], 1)
            noise, sigma = torch.randn(256, 4), torch.rand(256)
            noised = (1 - sigma[:, None]) * data + sigma[:, None] * noise
            loss = (field(noised, sigma, direction(hues)) - (noise - data)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return field
