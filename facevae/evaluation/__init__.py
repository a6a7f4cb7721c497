"""Measures of a trained model on held-out images: one small file per evaluation."""
