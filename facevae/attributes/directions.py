"""Directions of attributes by three methods, all from the same sufficient statistics.

- mean: the mean latent with an attribute minus that without. It carries along whatever correlates
  with the attribute.
- partial: multivariate ridge regression of latents on all labels, the effect of one attribute
  with the others held (Hoerl and Kennard, 1970).
- lda: weights of Fisher's linear discriminant with the shrinkage of Chen, Wiesel, Eldar and Hero
  (2010, OAS). They score an image; a classifier's normal is a filter and no pattern, and moves a
  face worse than the other two (Haufe et al., 2014).

Legend: Z latent size, A attributes, K attributes with a direction, F folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from facevae.attributes.estimators import (
    Scorers,
    choose_ridge,
    is_valid,
    lda_scorers,
    ridge_coefficients,
    shrink,
    variance_inflation,
)
from facevae.attributes.statistics import AttributeStatistics, merge

SMALLEST_SHARE = 0.05
"""a partial direction that changes its score by less than this share of what the mean's does has no
sound length: the labels do not tell its attribute from others"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Directions:
    """What is known of each attribute beside its mean difference; NaN where it has no direction."""

    partial: Float64[np.ndarray, "A Z"]
    """at strength 1 it changes the attribute's score as much as the mean difference does"""
    lda: Float64[np.ndarray, "A Z"]
    """weights of the score"""
    lda_bias: Float64[np.ndarray, " A"]
    gap: Float64[np.ndarray, " A"]
    """what the mean difference changes the score by; the squared Mahalanobis distance D^2"""
    mean_errors: Float64[np.ndarray, "A Z"]
    """standard errors of the mean difference, by the jackknife, as the two below"""
    partial_errors: Float64[np.ndarray, "A Z"]
    lda_errors: Float64[np.ndarray, "A Z"]
    variance_inflation: Float64[np.ndarray, " A"]
    """how many times a label's correlation with the others inflates the variance of its partial
    direction: 1 uncorrelated, 10 hardly to be told apart"""
    latent_mean: Float64[np.ndarray, " Z"]
    latent_covariance: Float64[np.ndarray, "Z Z"]
    """of posterior means, shrunk"""
    posterior_variance: Float64[np.ndarray, " Z"]
    """mean variance of the posteriors; 0 where the latents are samples, or it is not known"""
    ridge: float
    shrinkage: float
    rank: int
    folds: int
    """folds of the jackknife that hold images"""
    folds_by_identity: bool
    """whether all images of a person are in one fold"""

    def scorers(self, chosen: Sequence[int] | slice = slice(None)) -> Scorers:
        """The scores of some attributes."""
        index = chosen if isinstance(chosen, slice) else list(chosen)
        return Scorers(self.lda[index], self.lda_bias[index], self.gap[index])


def derive_directions(
    folds: Sequence[AttributeStatistics],
    validation: AttributeStatistics | None,
    *,
    min_count: int,
    ridge: float | None = None,
    posterior_variance: Float64[np.ndarray, " Z"] | None = None,
    folds_by_identity: bool = False,
) -> tuple[AttributeStatistics, Directions]:
    """The statistics of all folds together, and the directions with their standard errors.

    Args:
        folds: statistics of the images that directions come from, a person's in one fold.
        validation: of other images, to choose the ridge with.
        min_count: an attribute needs this many images with and without it.
        ridge: penalty of the regression, a share of a label's mean variance; none: chosen.
        posterior_variance: mean variance of the posteriors; none: 0.
        folds_by_identity: whether folds are by person, not by image.
    """
    folds = [fold for fold in folds if fold.count] or list(folds[:1])
    rests, total = leave_one_out(folds)
    valid = is_valid(total, min_count)
    penalty = choose_ridge(total, validation, valid) if ridge is None else ridge
    covariance = shrink(total.scatter / max(total.count, 1), total.count)
    scorers, partial = _estimates(total, valid, penalty)
    errors = np.full((3, *partial.shape), np.nan)
    if rests:
        errors = jackknife(lambda part: _parameters(part, valid, penalty), rests)
    no_variance = np.zeros_like(total.mean)
    return total, Directions(
        partial=partial,
        lda=scorers.weights,
        lda_bias=scorers.bias,
        gap=scorers.gap,
        mean_errors=errors[0],
        partial_errors=errors[1],
        lda_errors=errors[2],
        variance_inflation=variance_inflation(total, valid),
        latent_mean=total.mean,
        latent_covariance=covariance.matrix,
        posterior_variance=no_variance if posterior_variance is None else posterior_variance,
        ridge=penalty,
        shrinkage=covariance.shrinkage,
        rank=covariance.rank,
        folds=len(rests) or 1,
        folds_by_identity=folds_by_identity,
    )


def leave_one_out(
    folds: Sequence[AttributeStatistics],
) -> tuple[list[AttributeStatistics], AttributeStatistics]:
    """The statistics of all folds but one, for each; and of all. No rests if there is one fold."""
    before, after = [folds[0]], [folds[-1]]
    for fold, other in zip(folds[1:], reversed(folds[:-1]), strict=True):
        before.append(merge(before[-1], fold))
        after.append(merge(other, after[-1]))
    after.reverse()
    middle = [merge(a, b) for a, b in zip(before[:-2], after[2:], strict=True)]
    return ([after[1], *middle, before[-2]] if len(folds) > 1 else []), before[-1]


def jackknife(
    estimate: Callable[[AttributeStatistics], np.ndarray], rests: Sequence[AttributeStatistics]
) -> np.ndarray:
    """Standard errors of an estimate, by leaving out one fold at a time (Tukey, 1958).

    The square root of (F - 1)/F times the sum of squared deviations from their mean.
    """
    count, estimates = len(rests), np.stack([estimate(rest) for rest in rests])
    deviations = estimates - estimates.mean(axis=0)
    return np.asarray(np.sqrt((count - 1) / count * (deviations**2).sum(axis=0)))


def leakage(directions: Float64[np.ndarray, "K Z"], scorers: Scorers) -> Float64[np.ndarray, "K K"]:
    """What a move along each direction (row) changes the level of each attribute (column) by.

    In class gaps, per class gap of its own attribute: the diagonal is 1.
    """
    change = directions @ scorers.weights.T / scorers.gap
    return np.asarray(change / change.diagonal()[:, None])


def rescale(directions: Float64[np.ndarray, "K Z"], scorers: Scorers) -> Float64[np.ndarray, "K Z"]:
    """The directions, each as long as changes its score by one gap; NaN where none does.

    So strength 1 is one difference of class means for every method.
    """
    with np.errstate(invalid="ignore"):
        change = np.sum(directions * scorers.weights, axis=1) / scorers.gap
        return np.asarray(directions / np.where(change > 0, change, np.nan)[:, None])


def _estimates(
    statistics: AttributeStatistics, valid: Bool[np.ndarray, " A"], ridge: float
) -> tuple[Scorers, Float64[np.ndarray, "A Z"]]:
    """The scores and the partial directions."""
    valid = valid & is_valid(statistics, 1)
    scorers = lda_scorers(statistics, valid)
    partial = np.full_like(scorers.weights, np.nan)
    if valid.any():
        steps = 2 * ridge_coefficients(statistics, valid, ridge)  # from -1 to +1
        kept = Scorers(*(part[valid] for part in scorers))
        change = np.sum(steps * kept.weights, axis=1)
        steps[change < SMALLEST_SHARE * kept.gap] = np.nan
        partial[valid] = rescale(steps, kept)
    return scorers, partial


def _parameters(
    statistics: AttributeStatistics, valid: Bool[np.ndarray, " A"], ridge: float
) -> Float64[np.ndarray, "3 A Z"]:
    """What has standard errors: mean differences, partial directions, weights."""
    scorers, partial = _estimates(statistics, valid, ridge)
    mean = np.where(valid[:, None], statistics.mean_difference(), np.nan)
    return np.stack([mean, partial, scorers.weights])
