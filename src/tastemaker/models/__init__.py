"""Thin adapters over diffusers pipelines: encode, prefix, velocity, decode, sigmas. No loop over steps, no optimiser."""
