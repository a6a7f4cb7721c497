"""How well scores tell an attribute: from histograms of whole numbers, however many images.

Scores of one attribute are standardised and fall into 1,024 bins, one histogram per class. All
measures are of the histograms: areas are off by less than 1e-4, and those at a threshold are exact,
since thresholds are edges of bins. Legend: n images, A attributes, K bins.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int8, Int64

BINS = 1024
SPAN = 6.0
"""the bins cover so many standard deviations on each side; what lies beyond is in the last ones"""


class Scale(NamedTuple):
    """Mean and standard deviation of each attribute's scores, which place the bins."""

    mean: Float64[np.ndarray, " A"]
    deviation: Float64[np.ndarray, " A"]

    def edges(self) -> Float64[np.ndarray, "A K"]:
        """The lower edge of each bin but the first, and infinity: possible thresholds."""
        inner = np.linspace(-SPAN, SPAN, BINS - 1)
        inside = self.mean[:, None] + self.deviation[:, None] * inner
        return np.concatenate([inside, np.full((len(self.mean), 1), np.inf)], axis=1)


class Histograms(NamedTuple):
    """How many images of each class have a score in each bin; those of several sets add up."""

    positive: Int64[np.ndarray, "A K"]
    negative: Int64[np.ndarray, "A K"]

    @classmethod
    def of(
        cls, scale: Scale, scores: Float[np.ndarray, "n A"], labels: Int8[np.ndarray, "n A"]
    ) -> "Histograms":
        """Count scores by bin and class; missing labels (0) and scores that are NaN are left out.

        A score on an edge belongs to the bin above.
        """
        counts = np.zeros((2, scores.shape[1], BINS), np.int64)
        for k, edges in enumerate(scale.edges()):
            column, label = scores[:, k].astype(np.float64), labels[:, k]
            bins = np.searchsorted(edges, column, side="right")
            for row, sign in enumerate((1, -1)):
                chosen = bins[(label == sign) & ~np.isnan(column)]
                counts[row, k] = np.bincount(chosen, minlength=BINS)[:BINS]
        return cls(counts[0], counts[1])

    def merge(self, other: "Histograms") -> "Histograms":
        """The histograms of both sets of images."""
        return Histograms(self.positive + other.positive, self.negative + other.negative)


class ScoreMoments(NamedTuple):
    """Number, mean and sum of squared deviations of each attribute's scores; mergeable (Chan)."""

    images: Int64[np.ndarray, " A"]
    mean: Float64[np.ndarray, " A"]
    square: Float64[np.ndarray, " A"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, "n A"]) -> "ScoreMoments":
        """The moments of some images' scores; NaN is left out."""
        present = ~np.isnan(scores)
        count = present.sum(axis=0)
        values = np.where(present, scores.astype(np.float64), 0.0)
        mean = values.sum(axis=0) / np.maximum(count, 1)
        square = np.where(present, (values - mean) ** 2, 0.0).sum(axis=0)
        return cls(count, mean, square)

    def merge(self, other: "ScoreMoments") -> "ScoreMoments":
        """The moments of both sets of images."""
        count = self.images + other.images
        share = other.images / np.maximum(count, 1)
        delta = other.mean - self.mean
        square = self.square + other.square + delta**2 * self.images * share
        return ScoreMoments(count, self.mean + delta * share, square)

    def scale(self) -> Scale:
        """Where the bins of these scores lie; those that are all alike get a deviation of 1."""
        deviation = np.sqrt(self.square / np.maximum(self.images, 1))
        return Scale(self.mean, np.where(deviation > 0, deviation, 1.0))


def roc_auc(found: Histograms) -> Float64[np.ndarray, " A"]:
    """Areas under the ROC curve, equal scores counting half; NaN where a class has no image."""
    positive, negative = found.positive.astype(np.float64), found.negative.astype(np.float64)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positive * (below + negative / 2)).sum(axis=1) / pairs)


def average_precision(found: Histograms) -> Float64[np.ndarray, " A"]:
    """The mean precision at the rank of each positive image; NaN where a class has no image.

    Of equal scores, whose order says nothing, the middle positive one stands for all.
    """
    positive, negative = (side[:, ::-1].astype(np.float64) for side in found)
    above = np.cumsum(positive, axis=1) - positive
    all_above = above + np.cumsum(negative, axis=1) - negative
    middle = (positive + 1) / 2
    rank = all_above + middle * (1 + negative / (positive + 1))
    total = positive.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = (positive * (above + middle) / rank).sum(axis=1) / total
    return np.asarray(np.where(negative.sum(axis=1) > 0, precision, np.nan))


class Rates(NamedTuple):
    """Shares of right answers when scores at or above a threshold count as "has it"."""

    positive: Float64[np.ndarray, "*A K"]
    """of the images with the attribute"""
    negative: Float64[np.ndarray, "*A K"]
    all: Float64[np.ndarray, "*A K"]

    @classmethod
    def of(cls, found: Histograms) -> "Rates":
        """The rates at every threshold of `Scale.edges`; NaN where a class has no image."""
        positive, negative = found.positive.astype(np.float64), found.negative.astype(np.float64)
        hits = positive.sum(axis=1, keepdims=True) - np.cumsum(positive, axis=1)
        rejections = np.cumsum(negative, axis=1)
        with np.errstate(invalid="ignore"):
            right = hits / positive.sum(axis=1, keepdims=True)
            rejected = rejections / negative.sum(axis=1, keepdims=True)
        counts = (positive + negative).sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return cls(right, rejected, (hits + rejections) / counts)

    @property
    def balanced(self) -> Float64[np.ndarray, "*A K"]:
        """The mean of both classes' rates."""
        return np.asarray((self.positive + self.negative) / 2)


class Accuracy(NamedTuple):
    """Of each attribute: accuracy and balanced accuracy beside what needs no score at all."""

    accuracy: Float64[np.ndarray, " A"]
    balanced: Float64[np.ndarray, " A"]
    majority: Float64[np.ndarray, " A"]
    """the accuracy of answering what most validation images have"""


def accuracies(validation: Histograms, test: Histograms) -> Accuracy:
    """Accuracies on test images, at the thresholds that are best on validation images.

    Each measure has its own threshold: the one at which it is highest, the middle one of several.
    NaN where validation or test lack a class.
    """
    there, here = Rates.of(validation), Rates.of(test)
    known = np.isfinite(there.balanced[:, 0]) & np.isfinite(here.balanced[:, 0])

    def at_best(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
        best = np.array([_middle_of_best(row) for row in wanted], int)
        return np.where(known, given[np.arange(len(given)), best], np.nan)

    most = validation.positive.sum(axis=1) >= validation.negative.sum(axis=1)
    positives, negatives = test.positive.sum(axis=1), test.negative.sum(axis=1)
    right = np.where(most, positives, negatives)
    with np.errstate(invalid="ignore"):
        majority = np.where(known, right / (positives + negatives), np.nan)
    return Accuracy(at_best(there.all, here.all), at_best(there.balanced, here.balanced), majority)


def _middle_of_best(values: Float64[np.ndarray, " K"]) -> int:
    """The place of the highest value; of several the middle one; 0 where there is none."""
    if not np.isfinite(values).any():
        return 0
    places = np.flatnonzero(values == np.nanmax(values))
    return int(places[len(places) // 2])
