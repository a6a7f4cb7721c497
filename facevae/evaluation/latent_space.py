"""What a model's latent dimensions carry: their KL divergences, and which are active.

Legend: n images, Z latent size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

ACTIVE_VARIANCE = 0.01
"""a unit whose posterior mean varies more over the images is active (Burda et al. 2016)"""


def kl_divergence(
    mean: Float[np.ndarray, "n Z"], variance: Float[np.ndarray, "n Z"]
) -> Float64[np.ndarray, "n Z"]:
    """The KL divergence of each image's posterior from the prior, by dimension, in nats."""
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    return np.asarray((mean**2 + variance - 1 - np.log(variance)) / 2)


class LatentMoments(NamedTuple):
    """Sums over images by latent dimension; mergeable (Chan, Golub and LeVeque 1979)."""

    images: int
    mean: Float64[np.ndarray, " Z"]
    """of the posterior means"""
    square: Float64[np.ndarray, " Z"]
    """sum of squared deviations of the posterior means from their mean"""
    kl: Float64[np.ndarray, " Z"]
    """sum of KL divergences"""

    @classmethod
    def of(
        cls, mean: Float[np.ndarray, "n Z"], variance: Float[np.ndarray, "n Z"]
    ) -> "LatentMoments":
        """Those of some images' posteriors."""
        latents = mean.astype(np.float64)
        centre = latents.sum(axis=0) / max(len(latents), 1)
        square = ((latents - centre) ** 2).sum(axis=0)
        return cls(len(latents), centre, square, kl_divergence(mean, variance).sum(axis=0))

    def merge(self, other: "LatentMoments") -> "LatentMoments":
        """Those of both sets of images."""
        count = self.images + other.images
        share = other.images / max(count, 1)
        delta = other.mean - self.mean
        square = self.square + other.square + delta**2 * self.images * share
        return LatentMoments(count, self.mean + delta * share, square, self.kl + other.kl)

    def kl_mean(self) -> Float64[np.ndarray, " Z"]:
        """The mean KL divergence of each dimension, in nats."""
        return self.kl / max(self.images, 1)

    def active_units(self) -> int:
        """How many dimensions have posterior means that differ between images."""
        return int((self.square / max(self.images, 1) > ACTIVE_VARIANCE).sum())
