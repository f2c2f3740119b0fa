"""Prompts from files, the order in which they are trained on, and their cached embeddings."""
