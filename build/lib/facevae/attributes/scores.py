"""How well attribute vectors tell an attribute on images they were not computed from.

Legend: n images in a batch, Z latent size, A attributes.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float64, Int8
from sklearn.metrics import roc_auc_score

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
    """The area for one attribute; NaN where one class has no image."""
    present = label != 0
    if np.unique(label[present]).size < 2:
        return float("nan")
    return float(roc_auc_score(label[present] > 0, projection[present]))
