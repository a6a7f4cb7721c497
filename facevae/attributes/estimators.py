"""Regression and discriminants from sufficient statistics: no image is looked at.

Labels may be missing: covariances are then those of the images that have both labels of a pair.

Legend: Z latent size, A attributes, K attributes that are valid.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from facevae.attributes.statistics import AttributeStatistics

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""penalties to choose of, as shares of a label's mean variance"""
DEFAULT_RIDGE = 1e-3
"""the penalty where there are no validation images to choose it with"""
EIGENVALUE_FLOOR = 1e-6
"""smallest eigenvalue of a covariance, as a share of its largest: for latent dimensions that the
encoder does not use"""
RANK_TOLERANCE = 1e-10
"""eigenvalues of a correlation matrix below it are rounding"""


class Scorers(NamedTuple):
    """Linear scores of attributes, in class gaps.

    The score w.z + b is the log-likelihood ratio of two Gaussian classes of one covariance. Divided
    by the gap, the difference of the score between the class means, and moved by 1/2, it is the
    *level* of an attribute: 0 for the mean face without it, 1 for the mean face with it.
    """

    weights: Float64[np.ndarray, "K Z"]
    bias: Float64[np.ndarray, " K"]
    gap: Float64[np.ndarray, " K"]

    def levels(self, latents: Float[np.ndarray, "n Z"]) -> Float64[np.ndarray, "n K"]:
        """The level of each attribute in each latent."""
        return np.asarray((latents @ self.weights.T + self.bias) / self.gap + 0.5)


class ShrunkCovariance(NamedTuple):
    """A covariance that can be inverted."""

    matrix: Float64[np.ndarray, "Z Z"]
    inverse: Float64[np.ndarray, "Z Z"]
    shrinkage: float
    """the share of the identity in it"""
    rank: int
    """eigenvalues that were above the floor before shrinkage"""


def is_valid(statistics: AttributeStatistics, min_count: int) -> Bool[np.ndarray, " A"]:
    """Which attributes have enough images of both classes."""
    fewer = np.minimum(statistics.positive_count, statistics.negative_count)
    return np.asarray(fewer >= max(min_count, 1))


def ridge_coefficients(
    statistics: AttributeStatistics, valid: Bool[np.ndarray, " A"], ridge: float
) -> Float64[np.ndarray, "K Z"]:
    """Coefficients V of z = mean + V^T (a - mean a), of the valid attributes, labels being -1, +1.

    V = (C_aa + ridge * tr(C_aa)/K * I)^-1 C_az.
    """
    covariance = label_covariance(statistics, valid)
    penalty = ridge * np.trace(covariance) / max(len(covariance), 1)
    cross = _label_latent_covariance(statistics)[valid]
    return np.asarray(np.linalg.solve(covariance + penalty * np.eye(len(covariance)), cross))


def choose_ridge(
    train: AttributeStatistics,
    validation: AttributeStatistics | None,
    valid: Bool[np.ndarray, " A"],
) -> float:
    """The penalty whose regression predicts validation latents best, from statistics alone.

    |Z - AV|^2 = tr S - 2 tr(V^T C_az) + tr(V^T C_aa V), of which the first is the same for all.
    """
    if validation is None or validation.count < 2 or not valid.any():
        return DEFAULT_RIDGE
    labels = label_covariance(validation, valid)
    cross = _label_latent_covariance(validation)[valid]

    def error(ridge: float) -> float:
        found = ridge_coefficients(train, valid, ridge)
        return float(np.sum(found * (labels @ found - 2 * cross)))

    return min(RIDGES, key=error)


def label_covariance(
    statistics: AttributeStatistics, valid: Bool[np.ndarray, " A"]
) -> Float64[np.ndarray, "K K"]:
    """Covariance of the valid labels, each pair over the images that have both.

    Such a matrix may have negative eigenvalues; they are set to 0. Attributes that no image has
    labels of together count as uncorrelated.
    """
    chosen = np.ix_(valid, valid)
    both = statistics.both_positive[chosen].astype(np.float64)
    neither = statistics.both_negative[chosen].astype(np.float64)
    one = statistics.positive_negative[chosen].astype(np.float64)
    other = one.T
    count = np.maximum(both + neither + one + other, 1)
    mean, mean_other = (
        (both + one - other - neither) / count,
        (both + other - one - neither) / count,
    )
    covariance = (both + neither - one - other) / count - mean * mean_other
    if np.all(statistics.positive_count + statistics.negative_count == statistics.count):
        return np.asarray(covariance)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def variance_inflation(
    statistics: AttributeStatistics, valid: Bool[np.ndarray, " A"]
) -> Float64[np.ndarray, " A"]:
    """1/(1 - R^2) of each label regressed on the others; infinite for one that these determine."""
    covariance = label_covariance(statistics, valid)
    deviation = np.sqrt(covariance.diagonal())
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    is_free, shares = values > RANK_TOLERANCE, vectors**2
    found = (shares[:, is_free] / values[is_free]).sum(axis=1)
    found[(shares[:, ~is_free] > RANK_TOLERANCE).any(axis=1)] = np.inf
    inflation = np.full(len(valid), np.nan)
    inflation[valid] = found
    return inflation


def shrink(
    covariance: Float64[np.ndarray, "Z Z"], count: int, shrinkage: float | None = None
) -> ShrunkCovariance:
    """(1 - s) C + s tr(C)/Z I, its eigenvalues not below a floor.

    Args:
        covariance: C, of the form S/n.
        count: images it is of.
        shrinkage: s; none: the OAS estimate (Chen et al. 2010, equation 23).
    """
    size, trace = len(covariance), float(np.trace(covariance))
    if shrinkage is None:
        square = float(np.sum(covariance**2))
        above = (1 - 2 / size) * square + trace**2
        below = (count + 1 - 2 / size) * (square - trace**2 / size)
        shrinkage = min(1.0, above / below) if below > 0 else 1.0
    values, vectors = np.linalg.eigh(covariance)
    largest = max(float(values[-1]), 0.0) or 1.0
    rank = int((values > EIGENVALUE_FLOOR * largest).sum())
    values = (1 - shrinkage) * values + shrinkage * trace / size
    values = np.maximum(values, EIGENVALUE_FLOOR * largest)
    return ShrunkCovariance(
        (vectors * values) @ vectors.T, (vectors / values) @ vectors.T, shrinkage, rank
    )


def lda_scorers(
    statistics: AttributeStatistics,
    valid: Bool[np.ndarray, " A"],
    shrinkage: float | None = None,
) -> Scorers:
    """Fisher's discriminant of each attribute, NaN where not valid.

    The covariance of all images of an attribute, shrunk to C, is that within its classes plus
    p q d d^T (p and q their shares, d the mean difference). So by Sherman and Morrison the weights
    are C^-1 d / (1 - (1 - s) p q d^T C^-1 d), and where no label is missing one C serves all.
    """
    size = len(statistics.mean)
    scorers = Scorers(*(np.full(s, np.nan) for s in ((len(valid), size), len(valid), len(valid))))
    differences = statistics.mean_difference()
    shared: ShrunkCovariance | None = None
    if statistics.positive_scatter is None:
        shared = shrink(statistics.scatter / max(statistics.count, 1), statistics.count, shrinkage)
    for k in np.flatnonzero(valid).tolist():
        positive = int(statistics.positive_count[k])
        count = positive + int(statistics.negative_count[k])
        spread = positive * (count - positive) / count**2
        difference = differences[k]
        covariance = shared or shrink(_labelled_covariance(statistics, k), count, shrinkage)
        weights = covariance.inverse @ difference
        between = (1 - covariance.shrinkage) * spread * float(weights @ difference)
        weights = weights / (1 - between)
        middle = (statistics.positive_mean[k] + statistics.negative_mean[k]) / 2
        scorers.weights[k], scorers.bias[k] = weights, -float(weights @ middle)
        scorers.gap[k] = float(weights @ difference)
    return scorers


def _labelled_covariance(statistics: AttributeStatistics, k: int) -> Float64[np.ndarray, "Z Z"]:
    """Covariance of the images that have a label of an attribute."""
    assert statistics.positive_scatter is not None
    assert statistics.negative_scatter is not None
    positive, negative = int(statistics.positive_count[k]), int(statistics.negative_count[k])
    count = positive + negative
    difference = statistics.positive_mean[k] - statistics.negative_mean[k]
    within = statistics.positive_scatter[k] + statistics.negative_scatter[k]
    return np.asarray(
        within / count + positive * negative / count**2 * np.outer(difference, difference)
    )


def _label_latent_covariance(statistics: AttributeStatistics) -> Float64[np.ndarray, "A Z"]:
    """Covariance of each label with the latents, 2 p q d; 0 where a class is empty."""
    positive, negative = statistics.positive_count, statistics.negative_count
    count = np.maximum(positive + negative, 1)
    spread = 2 * (positive / count) * (negative / count)
    difference = statistics.positive_mean - statistics.negative_mean
    return np.asarray(spread[:, None] * difference)
