"""facevae: train face VAEs on Ray, compute attribute vectors, edit faces."""

__version__ = "0.1.0"
