"""What edits do to pixels, in the eyes of a judge: success, leakage, identity, strength.

Legend: e faces, A attributes, T attributes that are edited, K strengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8


class EditMeasures(NamedTuple):
    """Measures of edits at strength 1, one row per edited attribute."""

    success: Float64[np.ndarray, " T"]
    """share of faces of which the judge says the opposite afterwards"""
    moved: Float64[np.ndarray, "T A"]
    """how far each attribute moves in the direction of the edit, in units of its own gap between
    real images with and without it: 1 for the target of a perfect edit, 0 for all others"""
    leakage: Float64[np.ndarray, " T"]
    """mean of |moved| over the other attributes"""
    identity: Float64[np.ndarray, " T"]
    """mean cosine between features of the edited face and of its reconstruction"""
    flip_strength: Float64[np.ndarray, " T"]
    """median over faces of the smallest strength that turns the judge's answer; NaN where half of
    them do not turn at any"""


def class_gaps(
    logits: Float32[np.ndarray, "n A"], labels: Int8[np.ndarray, "n A"]
) -> Float64[np.ndarray, " A"]:
    """The mean logit of real images with each attribute, less that of images without."""

    def mean(sign: int) -> np.ndarray:
        chosen = labels == sign
        total = np.where(chosen, logits.astype(np.float64), 0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / chosen.sum(axis=0))

    return np.asarray(mean(1) - mean(-1))


def measure_edits(
    before: Float32[np.ndarray, "e A"],
    target: Float32[np.ndarray, "e T K"],
    after: Float32[np.ndarray, "e T A"],
    identity: Float32[np.ndarray, "e T"],
    *,
    targets: Sequence[int],
    strengths: Sequence[float],
    gaps: Float64[np.ndarray, " A"],
    seen: Sequence[int],
) -> EditMeasures:
    """The measures of edits whose logits `evaluation.measure.measure_edits` gives.

    Args:
        before: logits of the reconstructions.
        target: logits of the moved attribute at each strength.
        after: logits of all attributes at strength 1.
        identity: cosines at strength 1.
        targets: the places of the moved attributes.
        strengths: rising, 1 among them.
        gaps: of real images, by `class_gaps`.
        seen: the places of the attributes that the judge can see; others do not leak.
    """
    own = before[:, targets]
    way = np.where(own > 0, -1.0, 1.0)
    moved = (way[:, :, None] * (after - before[:, None])).mean(axis=0) / gaps
    turned = way * target[:, :, list(strengths).index(1.0)] > 0
    leakage = [
        np.abs(row[[j for j in seen if j != k]]).mean() if set(seen) - {k} else np.nan
        for k, row in zip(targets, moved, strict=True)
    ]
    flips = [
        _median([_flip(w * np.array([o, *row]), strengths) for w, o, row in faces])
        for faces in (
            zip(way[:, place], own[:, place], target[:, place], strict=True)
            for place in range(len(targets))
        )
    ]
    return EditMeasures(
        turned.mean(axis=0),
        moved,
        np.array(leakage, np.float64),
        identity.mean(axis=0, dtype=np.float64),
        np.array(flips, np.float64),
    )


def _flip(logits: Float[np.ndarray, " n"], strengths: Sequence[float]) -> float:
    """The smallest strength at which the logit is above 0, by linear interpolation.

    Args:
        logits: at strength 0, where it is not above 0, and at each of the K strengths.
        strengths: rising.
    """
    above = np.flatnonzero(logits > 0)
    if not len(above):
        return float("inf")
    place = int(above[0])
    grid = [0.0, *strengths]
    low, high = float(logits[place - 1]), float(logits[place])
    return grid[place - 1] + (grid[place] - grid[place - 1]) * -low / (high - low)


def _median(values: Sequence[float]) -> float:
    """The median of values of which some are infinite; NaN where it is."""
    middle = float(np.sort(values)[len(values) // 2]) if values else np.inf
    return middle if np.isfinite(middle) else float("nan")
