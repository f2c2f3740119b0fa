"""How much of everything `tastemaker miniature build` makes and trains on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are about what made the weights that ship."""

    t2i_drawings: int = 160_000
    edit_drawings: int = 80_000
    vae_samples: int = 250_000
    decoder_samples: int = 0
    """Pictures for the decoder alone, after encoder and decoder were trained together; 0 leaves it as it is."""
    base_steps: int = 4200
    t2i_prompts: int = 80
    edit_prompts: int = 48
    draws: int = 4
    seed: int = 0
