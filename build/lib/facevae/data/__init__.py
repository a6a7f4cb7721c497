"""Data: raw faces, shards, and batches in a fixed order."""
