"""The Frechet distance between two sets of features (Heusel et al. 2017).

Legend: n images, F features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64


class FeatureMoments(NamedTuple):
    """Number of images, mean and scatter of features; mergeable (Chan, Golub and LeVeque 1979)."""

    images: int
    mean: Float64[np.ndarray, " F"]
    scatter: Float64[np.ndarray, "F F"]
    """sum of products of deviations from the mean"""

    @classmethod
    def of(cls, features: Float[np.ndarray, "n F"]) -> "FeatureMoments":
        """The moments of some images' features."""
        values = features.astype(np.float64)
        mean = values.sum(axis=0) / max(len(values), 1)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """The moments of both sets of images."""
        count = self.images + other.images
        share = other.images / max(count, 1)
        delta = other.mean - self.mean
        joined = self.scatter + other.scatter + np.outer(delta, delta) * self.images * share
        return FeatureMoments(count, self.mean + delta * share, joined)

    def covariance(self) -> Float64[np.ndarray, "F F"]:
        """The unbiased covariance; zero of fewer than two images."""
        return self.scatter / max(self.images - 1, 1)


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2) of two normal distributions.

    The trace of the square root is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which
    are those of A B: real, and never negative beyond rounding. NaN where a set has fewer than two
    images. A set with no more images than features has a singular covariance, and a distance that
    is too large: compare distances of as many images only.
    """
    if min(a.images, b.images) < 2:
        return float("nan")
    first, second = a.covariance(), b.covariance()
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second @ root)
    trace = first.trace() + second.trace() - 2 * np.sqrt(np.maximum(product, 0)).sum()
    return float(max(((a.mean - b.mean) ** 2).sum() + trace, 0.0))
