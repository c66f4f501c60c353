"""Transformers: causal attention along streamlines, and the three models built on it."""
