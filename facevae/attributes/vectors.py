"""Attribute vectors: a direction in latent space for each attribute.

Legend: n images, Z latent size, A attributes.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, Int64

from facevae.attributes.directions import Directions
from facevae.attributes.estimators import is_valid
from facevae.attributes.statistics import AttributeStatistics
from facevae.errors import UserError


class LatentBatch(NamedTuple):
    """Some images: names, splits, posterior means and labels in {-1, 0 (missing), +1}."""

    image_id: list[str]
    split: list[str]
    latents: Float[np.ndarray, "n Z"]
    attributes: Int8[np.ndarray, "n A"]
    identities: Int64[np.ndarray, " n"] | None = None
    """the number of the person on each image, -1: unknown; none: of no image is it known"""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeVectors:
    """One direction per attribute; adding it to a latent once takes a face from - to +.

    A digest is empty where the origin is not known, as in the original's files.
    """

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "A Z"]
    """NaN where not `valid`"""
    positive_count: Int64[np.ndarray, " A"]
    negative_count: Int64[np.ndarray, " A"]
    standard_errors: Float32[np.ndarray, "A Z"]
    valid: Bool[np.ndarray, " A"]
    method: str = "mean_difference"
    model_digest: str = ""
    shards_digest: str = ""
    labels_digest: str = ""
    directions: Directions | None = None
    """partial and LDA directions and errors; none in files of the original and of older versions"""
    lineage: str = ""
    """what was changed since the images were encoded, as JSON; empty: nothing"""

    def vector(self, name: str) -> Float32[np.ndarray, " Z"]:
        """The direction of an attribute.

        Raises:
            UserError: there is no such attribute, or too few of its images carry a label.
        """
        index = index_of(name, self.names)
        if not self.valid[index]:
            raise UserError(
                f"{name} has no vector: {self.positive_count[index]} images with it and "
                f"{self.negative_count[index]} without are too few; choose another attribute, "
                "label more images, or lower min_count"
            )
        direction: Float32[np.ndarray, " Z"] = self.vectors[index]
        return direction

    def check_model(self, digest: str) -> None:
        """Refuse to go with another model than the vectors were computed from.

        Vectors of unknown origin pass.

        Raises:
            UserError: the digests differ.
        """
        if self.model_digest and self.model_digest != digest:
            raise UserError(
                f"the attribute vectors come from model {self.model_digest}, but this is model "
                f"{digest}; use that model, or compute the vectors with this one"
            )


def mean_difference(
    statistics: AttributeStatistics,
    names: Sequence[str],
    min_count: int = 25,
    *,
    model_digest: str = "",
    shards_digest: str = "",
    labels_digest: str = "",
) -> AttributeVectors:
    """Vectors from the mean latent without an attribute to the mean latent with it.

    An attribute with fewer than `min_count` images in either class is not valid.
    """
    positive, negative = statistics.positive_count, statistics.negative_count
    assert len(names) == len(positive), f"{len(names)} names for {len(positive)} attributes"
    valid = is_valid(statistics, min_count)
    return AttributeVectors(
        names=tuple(names),
        vectors=_masked(statistics.mean_difference(), valid),
        positive_count=positive,
        negative_count=negative,
        standard_errors=_masked(statistics.standard_errors(), valid),
        valid=valid,
        model_digest=model_digest,
        shards_digest=shards_digest,
        labels_digest=labels_digest,
    )


def index_of(name: str, names: Sequence[str]) -> int:
    """The position of an attribute; an unknown one raises UserError with the nearest."""
    if name in names:
        return names.index(name)
    by_lower = {known.lower(): known for known in names}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[nearest[0]]}?" if nearest else f"choose of {', '.join(names)}"
    raise UserError(f"no attribute {name!r} among the {len(names)} known ones; {hint}")


def _masked(values: Float[np.ndarray, "A Z"], valid: Bool[np.ndarray, " A"]) -> np.ndarray:
    """The values in float32 [A,Z], NaN where not valid."""
    return np.where(valid[:, None], values, np.nan).astype(np.float32)
