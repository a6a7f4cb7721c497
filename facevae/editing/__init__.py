"""Editing: moving latents along attribute vectors, and the pictures of it."""
