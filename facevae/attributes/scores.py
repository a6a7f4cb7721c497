"""How well attribute vectors tell an attribute on images they were not computed from.

Legend: n images in a batch, Z latent size, A attributes.
"""

from collections.abc import Mapping, Sequence
from itertools import starmap

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8

from facevae.attributes.directions import Directions
from facevae.attributes.vectors import LatentBatch
from facevae.config import HELD_OUT_SPLITS


class HeldOutScores:
    """Area under the ROC curve of the projection z . w_k, gathered batch by batch.

    It is the chance that a random image with the attribute projects further than a random one
    without. Only images of held-out splits count; missing labels (0) and images whose latent is
    not finite are skipped. Memory: 9 bytes per held-out image and attribute.
    """

    def __init__(
        self,
        names: Sequence[str],
        valid: Bool[np.ndarray, " A"],
        directions: Float[np.ndarray, "A Z"],
    ) -> None:
        """Takes the directions to project on: w_k of the valid attributes."""
        self._names = [name for name, is_valid in zip(names, valid, strict=True) if is_valid]
        self._valid = valid
        self._directions = directions[valid].astype(np.float64)
        self._projections = [np.empty((0, len(self._names)))]
        self._labels = [np.empty((0, len(self._names)), np.int8)]

    @classmethod
    def of_lda(cls, names: Sequence[str], directions: Directions) -> "HeldOutScores":
        """Of the weights of the discriminants."""
        return cls(names, np.isfinite(directions.lda).all(axis=1), directions.lda)

    def add(self, batch: LatentBatch) -> None:
        """Take what counts of a batch."""
        chosen = np.isin(batch.split, HELD_OUT_SPLITS) & np.isfinite(batch.latents).all(axis=1)
        self._projections.append(batch.latents[chosen] @ self._directions.T)
        self._labels.append(batch.attributes[chosen][:, self._valid])

    def auc(self) -> dict[str, float]:
        """The area by the name of each valid attribute; NaN where one class has no image."""
        projections, labels = np.concatenate(self._projections), np.concatenate(self._labels)
        columns = zip(projections.T, labels.T, strict=True)
        return dict(zip(self._names, starmap(_auc, columns), strict=True))


def auc_mean(auc: Mapping[str, float]) -> float:
    """The mean over attributes that have a value; NaN if none has."""
    values = [value for value in auc.values() if np.isfinite(value)]
    return float(np.mean(values)) if values else float("nan")


def _auc(projection: Float64[np.ndarray, " n"], label: Int8[np.ndarray, " n"]) -> float:
    """The area for one attribute, ties counting half; NaN where one class has no image.

    The Mann-Whitney statistic over the number of pairs. scikit-learn's needs more memory for its
    import than for the work.
    """
    positive, negative = projection[label > 0], np.sort(projection[label < 0])
    if not len(positive) or not len(negative):
        return float("nan")
    below, up_to = (np.searchsorted(negative, positive, side).sum() for side in ("left", "right"))
    return float(below + up_to) / (2 * len(positive) * len(negative))
