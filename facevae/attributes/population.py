"""The stored faces as a yardstick: where a latent lies among them.

Legend: N stored faces, n latents, Z latent size, A attributes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from facevae.attributes.estimators import Scorers
from facevae.attributes.hdf5 import read_slices
from facevae.attributes.vectors import AttributeVectors
from facevae.errors import UserError

SMALLEST_VARIANCE = 1e-6
"""of a direction, as a share of the largest: latents that the encoder does not use are all alike,
and would be infinitely far apart"""
SCORER = (
    "z . v, v being the attribute's vector: -0.5 is the mean of the stored faces without the "
    "attribute, +0.5 of those with it"
)
"""what a score is, for people"""
LEVEL = (
    "the LDA score on a scale where the mean face without the attribute has 0, that with it 1; "
    "hold, level and transfer go by it"
)
"""what a level is, for people"""


@dataclass(frozen=True, eq=False)
class Population:
    """What the stored faces say of a latent."""

    names: tuple[str, ...]
    """of the attributes that have a vector"""
    directions: Float64[np.ndarray, "A Z"]
    middle: Float64[np.ndarray, " A"]
    """halfway between the mean projections of faces with and without each attribute"""
    gap: Float64[np.ndarray, " A"]
    """between them; NaN where a class has no stored face"""
    mean: Float64[np.ndarray, " Z"]
    whitening: Float64[np.ndarray, "Z Z"]
    distances: Float64[np.ndarray, " N"]
    """of the stored faces, sorted"""
    scorers: Scorers | None = None
    """LDA scores of the same attributes; none: the vectors have none"""

    def scores(self, latents: Float[np.ndarray, "n Z"]) -> Float64[np.ndarray, "n A"]:
        """How much of each attribute is in latents: see `SCORER`."""
        projected: np.ndarray = (latents.astype(np.float64) @ self.directions.T - self.middle) / (
            self.gap
        )
        return projected

    def distance(self, latents: Float[np.ndarray, "n Z"]) -> Float64[np.ndarray, " n"]:
        """The Mahalanobis distance of latents from the mean of the stored faces."""
        whitened = (latents.astype(np.float64) - self.mean) @ self.whitening
        distances: np.ndarray = np.linalg.norm(whitened, axis=1)
        return distances

    def share_nearer(self, distance: float) -> float:
        """The share of the stored faces that are nearer to their mean."""
        return float(np.searchsorted(self.distances, distance)) / len(self.distances)

    def farthest(self, quantile: float) -> float:
        """The distance within which that share of the stored faces is."""
        return float(np.quantile(self.distances, quantile))


def read_population(uri: str | Path, vectors: AttributeVectors) -> Population:
    """The stored faces of a file of vectors; of very many, some evenly spread ones.

    Raises:
        UserError: the file is damaged, or holds no latents.
    """
    slices = list(read_slices(uri))
    latents = np.concatenate([latents for latents, _ in slices]) if slices else np.empty((0, 1))
    finite = np.isfinite(latents).all(axis=1)
    if not finite.any():
        raise UserError(f"{uri} holds no latents of faces: compute the vectors again")
    latents = latents[finite]
    labels = np.concatenate([labels for _, labels in slices])[finite][:, vectors.valid]
    directions = vectors.vectors[vectors.valid].astype(np.float64)
    without, with_it = (_class_means(latents @ directions.T, labels == sign) for sign in (-1, 1))
    mean = latents.mean(axis=0)
    centred = latents - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / max(len(latents) - 1, 1))
    least = max(SMALLEST_VARIANCE * variances[-1], np.finfo(np.float64).tiny)
    whitening = axes / np.sqrt(np.maximum(variances, least))
    gap = with_it - without
    found = vectors.directions
    return Population(
        names=tuple(n for n, valid in zip(vectors.names, vectors.valid, strict=True) if valid),
        directions=directions,
        middle=(with_it + without) / 2,
        gap=np.where(gap == 0, np.nan, gap),
        mean=mean,
        whitening=whitening,
        distances=np.sort(np.linalg.norm(centred @ whitening, axis=1)),
        scorers=None if found is None else found.scorers(np.flatnonzero(vectors.valid).tolist()),
    )


def _class_means(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean of each column over the chosen rows; NaN where there are none."""
    counts = chosen.sum(axis=0)
    return np.where(counts, (values * chosen).sum(axis=0) / np.maximum(counts, 1), np.nan)
