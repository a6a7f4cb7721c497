"""Statistics of stored latents by fold, for directions with standard errors.

A fold is a function of the person on an image, or of its name where no person is known. Rows are
taken in blocks of one size, so that the same rows in the same order give the same bits, however
they are cut into batches, and whatever rows of other splits lie between them.

Legend: n images in a batch, Z latent size, A attributes.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int64

from facevae.attributes.statistics import AttributeStatistics, merge
from facevae.attributes.vectors import LatentBatch

BLOCK = 8192
"""rows whose statistics are computed at once"""
MAX_ATTRIBUTES = 512
"""attributes whose sums by fold fit in memory with ease: their number grows with the square"""
TRAIN_SPLITS = ("train", "")
"""splits that directions come from; files of the original name none"""
UNKNOWN = -1
"""the number of a person who is not known"""


class FoldedStatistics(NamedTuple):
    """What directions are derived from."""

    train: list[AttributeStatistics]
    """by fold"""
    validation: AttributeStatistics


def fold_statistics(
    batches: Iterable[LatentBatch],
    latent_size: int,
    attributes: int,
    folds: int,
    class_scatter: bool,
) -> FoldedStatistics:
    """The statistics of stored latents: of the training images by fold, and of validation images.

    Args:
        batches: all images in their order.
        latent_size: Z.
        attributes: A.
        folds: how many.
        class_scatter: whether labels may be missing (see `AttributeStatistics.of_batch`).
    """
    train = _Blocks(latent_size, attributes, folds, class_scatter)
    validation = _Blocks(latent_size, attributes, 1, class_scatter=False)
    for batch in batches:
        split = np.asarray(batch.split)
        chosen = np.isin(split, TRAIN_SPLITS)
        train.add(batch.latents[chosen], batch.attributes[chosen], _folds(batch, chosen, folds))
        chosen = split == "val"
        none = np.zeros(int(chosen.sum()), np.int64)
        validation.add(batch.latents[chosen], batch.attributes[chosen], none)
    return FoldedStatistics(train.finish(), validation.finish()[0])


def fold_of(key: str, folds: int) -> int:
    """The fold of a person or of an image, by a hash."""
    digest = hashlib.sha256(f"fold {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def _folds(batch: LatentBatch, chosen: np.ndarray, folds: int) -> Int64[np.ndarray, " m"]:
    """The folds of the chosen images."""
    rows = np.flatnonzero(chosen).tolist()
    people = [UNKNOWN] * len(batch.image_id) if batch.identities is None else batch.identities
    keys = [
        batch.image_id[row] if people[row] == UNKNOWN else f"person {people[row]}" for row in rows
    ]
    return np.array([fold_of(key, folds) for key in keys], np.int64)


class _Blocks:
    """Rows that come in batches, counted in blocks."""

    def __init__(self, latent_size: int, attributes: int, folds: int, class_scatter: bool) -> None:
        empty = AttributeStatistics.empty(latent_size, attributes, class_scatter)
        self._totals, self._class_scatter = [empty] * folds, class_scatter
        self._latents = [np.empty((0, latent_size))]
        self._labels = [np.empty((0, attributes), np.int8)]
        self._folds = [np.empty(0, np.int64)]
        self._waiting = 0

    def add(
        self,
        latents: Float[np.ndarray, "n Z"],
        labels: Int8[np.ndarray, "n A"],
        folds: Int64[np.ndarray, " n"],
    ) -> None:
        """Take rows, and count every block that is whole."""
        self._latents.append(latents.astype(np.float64))
        self._labels.append(labels)
        self._folds.append(folds)
        self._waiting += len(folds)
        if self._waiting >= BLOCK:
            self._count(self._waiting - self._waiting % BLOCK)

    def finish(self) -> list[AttributeStatistics]:
        """Count what is left; returns the statistics of each fold."""
        if self._waiting:
            self._count(self._waiting)
        return self._totals

    def _count(self, rows: int) -> None:
        latents, labels = np.concatenate(self._latents), np.concatenate(self._labels)
        folds = np.concatenate(self._folds)
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            self._count_block(latents[block], labels[block], folds[block])
        self._latents, self._labels = [latents[rows:]], [labels[rows:]]
        self._folds, self._waiting = [folds[rows:]], len(folds) - rows

    def _count_block(self, latents: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> None:
        for fold in np.unique(folds).tolist():
            rows = folds == fold
            part = AttributeStatistics.of_batch(
                latents[rows], np.zeros_like(latents[rows]), labels[rows], self._class_scatter
            )
            self._totals[fold] = merge(self._totals[fold], part)
