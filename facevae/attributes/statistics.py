"""Mergeable sufficient statistics of latents and their attribute labels, in float64 and int64.

One value holds all that attribute vectors need of any set of images: counts, means and centred
sums, never raw sums (a float32 sum is off by 2 % where |mean|/deviation is 100). Two of them merge
by Chan, Golub and LeVeque (1979); the formulas are those of the pairwise update.

Legend: B images in a batch, Z latent size, A attributes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8, Int64

from facevae.config import Split
from facevae.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeStatistics:
    """Sufficient statistics of some images; the zero of `merge` is `empty`.

    "Positive" images of an attribute carry its label +1, "negative" ones -1; 0 is a missing label
    and counts in neither class. A class without images has mean and square 0. Squares and scatters
    are sums of products of deviations from their own mean, undivided.
    """

    count: int
    """images, without the rejected ones"""
    rejected: int
    """images left out because their posterior is not finite"""
    mean: Float64[np.ndarray, " Z"]
    scatter: Float64[np.ndarray, "Z Z"]
    posterior_variance_sum: Float64[np.ndarray, " Z"]
    both_positive: Int64[np.ndarray, "A A"]
    """images positive in attribute i and in attribute j; the diagonal is `positive_count`"""
    positive_negative: Int64[np.ndarray, "A A"]
    """images positive in attribute i and negative in attribute j"""
    both_negative: Int64[np.ndarray, "A A"]
    positive_mean: Float64[np.ndarray, "A Z"]
    negative_mean: Float64[np.ndarray, "A Z"]
    positive_square: Float64[np.ndarray, "A Z"]
    """diagonal of the scatter inside the positive class"""
    negative_square: Float64[np.ndarray, "A Z"]
    positive_scatter: Float64[np.ndarray, "A Z Z"] | None = None
    """None unless asked for: with every label present, `scatter` and the means imply it"""
    negative_scatter: Float64[np.ndarray, "A Z Z"] | None = None

    @classmethod
    def empty(
        cls, latent_size: int, attributes: int, class_scatter: bool = False
    ) -> "AttributeStatistics":
        """Statistics of no image: merging them changes no bit."""
        no_latents = np.empty((0, latent_size))
        return cls.of_batch(
            no_latents, no_latents, np.empty((0, attributes), np.int8), class_scatter
        )

    @classmethod
    def of_batch(
        cls,
        latents: Float[np.ndarray, "B Z"],
        posterior_variance: Float[np.ndarray, "B Z"],
        labels: Int8[np.ndarray, "B A"],
        class_scatter: bool = False,
    ) -> "AttributeStatistics":
        """Statistics of a batch, centred on its own mean in float64.

        Args:
            latents: posterior means.
            posterior_variance: variances of the same posteriors, exp(log_variance).
            labels: -1, 0 (missing) or +1.
            class_scatter: keep the [A,Z,Z] scatter of each class: for labels with gaps.
        """
        assert ((labels >= -1) & (labels <= 1)).all(), "labels must be -1, 0 or +1"
        finite = np.isfinite(latents).all(axis=1) & np.isfinite(posterior_variance).all(axis=1)
        latents = latents[finite].astype(np.float64)
        labels = labels[finite]
        count = len(latents)
        mean = latents.sum(axis=0) / max(count, 1)
        centred = latents - mean
        squares = centred**2
        positive, negative = (np.equal(labels, sign).astype(np.float64) for sign in (1, -1))
        positive_shift, positive_square = _class_moments(positive, centred, squares)
        negative_shift, negative_square = _class_moments(negative, centred, squares)
        return cls(
            count=count,
            rejected=len(finite) - count,
            mean=mean,
            scatter=centred.T @ centred,
            posterior_variance_sum=posterior_variance[finite].sum(axis=0, dtype=np.float64),
            both_positive=(positive.T @ positive).astype(np.int64),
            positive_negative=(positive.T @ negative).astype(np.int64),
            both_negative=(negative.T @ negative).astype(np.int64),
            # a class without images has mean 0, not the mean of the batch
            positive_mean=np.where(positive.any(axis=0)[:, None], mean + positive_shift, 0.0),
            negative_mean=np.where(negative.any(axis=0)[:, None], mean + negative_shift, 0.0),
            positive_square=positive_square,
            negative_square=negative_square,
            positive_scatter=_class_scatter(positive, centred) if class_scatter else None,
            negative_scatter=_class_scatter(negative, centred) if class_scatter else None,
        )

    @property
    def positive_count(self) -> Int64[np.ndarray, " A"]:
        """Images with label +1, per attribute."""
        return self.both_positive.diagonal()

    @property
    def negative_count(self) -> Int64[np.ndarray, " A"]:
        """Images with label -1, per attribute."""
        return self.both_negative.diagonal()

    def mean_difference(self) -> Float64[np.ndarray, "A Z"]:
        """Mean positive latent minus mean negative latent; NaN where a class has no image."""
        both = (self.positive_count > 0) & (self.negative_count > 0)
        return np.where(both[:, None], self.positive_mean - self.negative_mean, np.nan)

    def standard_errors(self) -> Float64[np.ndarray, "A Z"]:
        """Standard errors of `mean_difference` for unequal variances (Welch).

        NaN where a class has fewer than two images.
        """
        squared = _squared_error_of_mean(
            self.positive_square, self.positive_count
        ) + _squared_error_of_mean(self.negative_square, self.negative_count)
        return np.asarray(np.sqrt(squared))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Every field as an array, counts as int64 scalars; absent class scatters are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "AttributeStatistics":
        """The statistics that `to_arrays` took apart, bit for bit.

        Raises:
            UserError: an array is missing, as in a file of another version.
        """
        names = [field.name for field in fields(cls)]
        found = {name: np.asarray(arrays[name]) for name in names if name in arrays}
        if missing := set(names) - set(found) - {"positive_scatter", "negative_scatter"}:
            raise UserError(
                f"attribute statistics lack {', '.join(sorted(missing))}: another version wrote "
                "them; compute them again"
            )
        counts = {name: int(found.pop(name).item()) for name in ("count", "rejected")}
        return cls(**counts, **found)  # type: ignore[arg-type]  # one dict, fields of two types


def merge(a: AttributeStatistics, b: AttributeStatistics) -> AttributeStatistics:
    """Statistics of the images of both; exact for counts, good to rounding for the rest.

    Not idempotent: the same images twice count twice.
    """
    return _combine(a, b, sign=1)


def remove(total: AttributeStatistics, part: AttributeStatistics) -> AttributeStatistics:
    """Statistics of the images of `total` that are not in `part`: `merge` solved for its first."""
    rest = _combine(total, part, sign=-1)
    assert rest.count >= 0, "part has more images than total"
    assert (rest.positive_count >= 0).all(), "part has more positive images than total"
    assert (rest.negative_count >= 0).all(), "part has more negative images than total"
    return rest


@dataclass(frozen=True, eq=False)
class ShardStatistics:
    """The statistics of one shard, by split; `shard` orders and identifies it."""

    shard: int | str
    digest: str
    by_split: Mapping[Split, AttributeStatistics]


def reduce_shards(shards: Iterable[ShardStatistics]) -> dict[Split, AttributeStatistics]:
    """Statistics of all shards by split, merged one after the other as they come.

    Always in the order of the manifest, for another order changes the last bits. Only the totals
    and one shard are in memory. A split that no shard has is left out.

    Raises:
        UserError: a shard comes twice.
    """
    totals: dict[Split, AttributeStatistics] = {}
    seen: set[int | str] = set()
    for shard in shards:
        if shard.shard in seen:
            raise UserError(
                f"expected each shard once, found shard {shard.shard!r} again: its images would "
                "count twice; pass it once"
            )
        seen.add(shard.shard)
        for split, part in shard.by_split.items():
            totals[split] = merge(totals[split], part) if split in totals else part
    return {split: totals[split] for split in get_args(Split) if split in totals}


def _class_moments(
    members: Float64[np.ndarray, "B A"],
    centred: Float64[np.ndarray, "B Z"],
    squares: Float64[np.ndarray, "B Z"],
) -> tuple[Float64[np.ndarray, "A Z"], Float64[np.ndarray, "A Z"]]:
    """Per attribute: mean of its members, and sum of squared deviations from that mean."""
    counts = members.sum(axis=0)[:, None]
    means = members.T @ centred / np.maximum(counts, 1)
    # centred on the batch, so the subtraction cancels little; rounding may still pass below zero
    return means, np.maximum(members.T @ squares - counts * means**2, 0)


def _class_scatter(
    members: Float64[np.ndarray, "B A"], centred: Float64[np.ndarray, "B Z"]
) -> Float64[np.ndarray, "A Z Z"]:
    """Scatter of the members of each attribute around their own mean."""
    scatter = np.zeros((members.shape[1], centred.shape[1], centred.shape[1]))
    for attribute, column in enumerate(members.T > 0):
        if column.any():
            rows = centred[column]
            rows -= rows.mean(axis=0)
            scatter[attribute] = rows.T @ rows
    return scatter


def _squared_error_of_mean(
    square: Float64[np.ndarray, "A Z"], count: Int64[np.ndarray, " A"]
) -> Float64[np.ndarray, "A Z"]:
    """Variance of a class mean, s^2 / n; NaN below two images."""
    n = count[:, None]
    return np.where(n > 1, square / np.maximum(n * (n - 1), 1), np.nan)


class _Join(NamedTuple):
    """Chan's update for a and b; a negative count of b takes b out of a.

    With n = n_a + n_b and delta = mean_b - mean_a: mean = mean_a + delta * share and
    scatter = scatter_a +- scatter_b + delta delta^T * weight, share = n_b/n, weight = n_a n_b/n.
    Solving for a what merged to n gives the same formulas with -n_b. A side without images is the
    identity to the bit, since its share is exactly 0 or 1 and its weight 0; where nothing is left,
    the moments are exactly 0.
    """

    left: Bool[np.ndarray, "*n 1"]
    share: Float64[np.ndarray, "*n 1"]
    weight: Float64[np.ndarray, "*n 1"]
    delta: Float64[np.ndarray, "*n Z"]
    sign: int

    @classmethod
    def of(
        cls,
        count_a: Int64[np.ndarray, "*n"],
        mean_a: Float64[np.ndarray, "*n Z"],
        count_b: Int64[np.ndarray, "*n"],
        mean_b: Float64[np.ndarray, "*n Z"],
        sign: int,
    ) -> "_Join":
        total = (count_a + sign * count_b)[..., None]
        share = sign * count_b[..., None] / np.maximum(total, 1)
        return cls(total > 0, share, count_a[..., None] * share, mean_b - mean_a, sign)

    def mean(self, a: Float64[np.ndarray, "*n Z"]) -> Float64[np.ndarray, "*n Z"]:
        return np.where(self.left, a + self.delta * self.share, 0.0)

    def square(
        self, a: Float64[np.ndarray, "*n Z"], b: Float64[np.ndarray, "*n Z"]
    ) -> Float64[np.ndarray, "*n Z"]:
        joined = a + self.sign * b + self.delta**2 * self.weight
        return np.where(self.left, np.maximum(joined, 0), 0.0)

    def scatter(
        self, a: Float64[np.ndarray, "*n Z Z"], b: Float64[np.ndarray, "*n Z Z"]
    ) -> Float64[np.ndarray, "*n Z Z"]:
        outer = self.delta[..., :, None] * self.delta[..., None, :]
        joined = a + self.sign * b + outer * self.weight[..., None]
        return np.where(self.left[..., None], joined, 0.0)

    def optional_scatter(
        self, a: Float64[np.ndarray, "*n Z Z"] | None, b: Float64[np.ndarray, "*n Z Z"] | None
    ) -> Float64[np.ndarray, "*n Z Z"] | None:
        return None if a is None or b is None else self.scatter(a, b)


def _combine(a: AttributeStatistics, b: AttributeStatistics, sign: int) -> AttributeStatistics:
    """Statistics of a with b added (sign 1) or taken out (sign -1)."""
    assert a.positive_mean.shape == b.positive_mean.shape, "statistics of other latents or labels"
    assert (a.positive_scatter is None) == (b.positive_scatter is None), "class scatter in one only"
    every = _Join.of(np.asarray(a.count), a.mean, np.asarray(b.count), b.mean, sign)
    positive = _Join.of(a.positive_count, a.positive_mean, b.positive_count, b.positive_mean, sign)
    negative = _Join.of(a.negative_count, a.negative_mean, b.negative_count, b.negative_mean, sign)
    return AttributeStatistics(
        count=a.count + sign * b.count,
        rejected=a.rejected + sign * b.rejected,
        mean=every.mean(a.mean),
        scatter=every.scatter(a.scatter, b.scatter),
        posterior_variance_sum=a.posterior_variance_sum + sign * b.posterior_variance_sum,
        both_positive=a.both_positive + sign * b.both_positive,
        positive_negative=a.positive_negative + sign * b.positive_negative,
        both_negative=a.both_negative + sign * b.both_negative,
        positive_mean=positive.mean(a.positive_mean),
        negative_mean=negative.mean(a.negative_mean),
        positive_square=positive.square(a.positive_square, b.positive_square),
        negative_square=negative.square(a.negative_square, b.negative_square),
        positive_scatter=positive.optional_scatter(a.positive_scatter, b.positive_scatter),
        negative_scatter=negative.optional_scatter(a.negative_scatter, b.negative_scatter),
    )
