"""How well attribute vectors tell an attribute on images they were not computed from.

Legend: n images in a batch, Z latent size, A attributes.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float64, Int8

from facevae.attributes.vectors import AttributeVectors, LatentBatch


def held_out_auc(batches: Iterable[LatentBatch], vectors: AttributeVectors) -> dict[str, float]:
    """Area under the ROC curve of the projection z . v_k, by the name of each valid attribute.

    It is the chance that a random image with the attribute projects further than a random one
    without. Missing labels (0) and images whose latent is not finite are skipped; NaN where one
    class has no image. Memory: 9 bytes an image and attribute.
    """
    directions = vectors.vectors[vectors.valid].astype(np.float64)
    projections = [np.empty((0, len(directions)))]
    labels = [np.empty((0, len(directions)), np.int8)]
    for batch in batches:
        finite = np.isfinite(batch.latents).all(axis=1)
        projections.append(batch.latents[finite] @ directions.T)
        labels.append(batch.attributes[finite][:, vectors.valid])
    names = np.array(vectors.names)[vectors.valid]
    columns = zip(np.concatenate(projections).T, np.concatenate(labels).T, strict=True)
    return {
        str(name): _auc(projection, label)
        for name, (projection, label) in zip(names, columns, strict=True)
    }


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
