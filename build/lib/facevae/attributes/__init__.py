"""Attributes: statistics of latents, vectors, and how well they read."""
