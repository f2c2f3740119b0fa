"""Tells cartoon faces apart by their proportions: a small embedder for face identity in the miniature, learnt from pictures."""
