"""Linear worlds: latents moved along planted directions by labels that correlate."""

import numpy as np

from facevae.attributes.statistics import AttributeStatistics

LATENT, ATTRIBUTES = 12, 6


def correlated_labels(random, images, attributes=ATTRIBUTES, common=0.9):
    """Labels of one hidden trait: each two correlate."""
    hidden = np.sqrt(common) * random.normal(size=(images, 1))
    own = np.sqrt(1 - common) * random.normal(size=(images, attributes))
    return np.where(hidden + own > 0.2, 1, -1).astype(np.int8)


def world(seed=0, images=4000, common=0.9, noise=1.0, missing=0.0):
    """Latents moved along planted directions by labels that correlate; and these directions."""
    random = np.random.default_rng(seed)
    labels = correlated_labels(random, images, common=common)
    truth = random.normal(size=(ATTRIBUTES, LATENT))
    scales = random.uniform(0.3, 2, LATENT)
    latents = 3 + labels @ truth + noise * scales * random.normal(size=(images, LATENT))
    labels[random.random(labels.shape) < missing] = 0
    return latents, labels, truth


def statistics(latents, labels, rows=slice(None)):
    has_gaps = bool((labels == 0).any())
    return AttributeStatistics.of_batch(
        latents[rows], np.ones_like(latents[rows]), labels[rows], has_gaps
    )
