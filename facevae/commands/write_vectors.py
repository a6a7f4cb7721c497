"""What `attributes` and `vectors` have in common: directions, and what is written of them.

Legend: Z latent size, A attributes.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float64

from facevae.attributes.directions import Directions, derive_directions
from facevae.attributes.folds import MAX_ATTRIBUTES, fold_statistics
from facevae.attributes.hdf5 import VECTORS, write_hdf5
from facevae.attributes.scores import HeldOutScores, auc_mean
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.commands.run_step import Metrics
from facevae.config import DirectionsConfig
from facevae.report import plots
from facevae.report.grids import save_or_warn
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import Run

TABLE = "directions.csv"
WRITTEN_FILES = (VECTORS, TABLE, "similarity.png", "auc.png", "confidence.png")
"""the names of what is written, beside what the command itself writes"""


def derive(
    batches: Iterable[LatentBatch],
    shape: tuple[int, ...],
    *,
    has_gaps: bool,
    min_count: int,
    config: DirectionsConfig,
    posterior_variance: Float64[np.ndarray, " Z"],
    folds_by_identity: bool,
) -> tuple[AttributeStatistics, Directions | None]:
    """The statistics of the training images among stored ones, and the directions they give.

    No directions are derived of more attributes than `MAX_ATTRIBUTES`; a line says so.

    Args:
        batches: the images.
        shape: A, Z.
        has_gaps: whether labels may be missing.
        min_count: an attribute needs this many images with and without it.
        config: how.
        posterior_variance: mean variance of the posteriors.
        folds_by_identity: whether the images have people.
    """
    attributes, size = shape
    is_too_many = attributes > MAX_ATTRIBUTES
    folds = 1 if is_too_many else config.folds
    parts = fold_statistics(batches, size, attributes, folds, has_gaps and not is_too_many)
    if is_too_many:
        log(
            f"no partial and LDA directions: {attributes} attributes are more than "
            f"{MAX_ATTRIBUTES}; facevae vectors --only derives those of some"
        )
        return parts.train[0], None
    return derive_directions(
        parts.train,
        parts.validation,
        min_count=min_count,
        ridge=config.ridge,
        posterior_variance=posterior_variance,
        folds_by_identity=folds_by_identity,
    )


def write_vectors(
    output: str, vectors: AttributeVectors, batches: Iterable[LatentBatch], count: int, run: Run
) -> Metrics:
    """Write and log the vectors beside the latents of `count` images.

    Returns:
        `auc/<attribute>` of the projection on the vectors and `auc/mean`, `lda_auc/mean` of the LDA
        scores, and what the directions rest on.
    """
    directions = vectors.directions
    scores = HeldOutScores(vectors.names, vectors.valid, vectors.vectors)
    lda = None if directions is None else HeldOutScores.of_lda(vectors.names, directions)

    def scored() -> Iterator[LatentBatch]:
        for batch in batches:
            scores.add(batch)
            if lda is not None:
                lda.add(batch)
            yield batch

    write_hdf5(storage.join(output, VECTORS), vectors, scored(), count, log=run.file)
    auc = scores.auc()
    metrics = {**{f"auc/{name}": value for name, value in auc.items()}, "auc/mean": auc_mean(auc)}
    if lda is not None and directions is not None:
        lda_auc = lda.auc()
        metrics |= {"lda_auc/mean": auc_mean(lda_auc), **_metrics(directions)}
        _write_table(output, vectors, directions, auc, lda_auc, run)
    draw(vectors, auc, output, run)
    return metrics


def _metrics(directions: Directions) -> Metrics:
    return {
        "partial_vectors": float(np.isfinite(directions.partial).all(axis=1).sum()),
        "directions/ridge": directions.ridge,
        "directions/shrinkage": directions.shrinkage,
        "directions/rank": float(directions.rank),
        "directions/folds": float(directions.folds),
    }


def draw(vectors: AttributeVectors, auc: Mapping[str, float], output: str, run: Run) -> None:
    """Write and log the pictures of the vectors, of their scores, and of how sure they are."""
    charts = {
        "similarity.png": partial(plots.similarity_heatmap, vectors.vectors, vectors.names),
        "auc.png": partial(plots.auc_bars, auc),
    }
    if (directions := vectors.directions) is not None:
        errors = {
            "mean": relative_errors(vectors.vectors, directions.mean_errors),
            "partial": relative_errors(directions.partial, directions.partial_errors),
        }
        charts["confidence.png"] = partial(
            plots.confidence_bars, vectors.names, errors, directions.variance_inflation
        )
    for name, drawn in charts.items():
        if picture := save_or_warn(drawn, storage.join(output, name)):
            run.picture(name, picture)


def relative_errors(directions: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The length of each direction's standard errors over its own length [A]; NaN without one."""
    lengths = np.linalg.norm(directions, axis=1)
    return np.asarray(np.linalg.norm(errors, axis=1) / np.where(lengths > 0, lengths, np.nan))


def _write_table(
    output: str,
    vectors: AttributeVectors,
    directions: Directions,
    auc: Mapping[str, float],
    lda_auc: Mapping[str, float],
    run: Run,
) -> None:
    """Write and log a row per attribute; a number that there is none of is left empty."""
    columns = {
        "attribute": vectors.names,
        "with": vectors.positive_count,
        "without": vectors.negative_count,
        "auc": [auc.get(name, np.nan) for name in vectors.names],
        "lda_auc": [lda_auc.get(name, np.nan) for name in vectors.names],
        "distance_of_classes": np.sqrt(directions.gap),
        "variance_inflation": directions.variance_inflation,
        "error_of_mean": relative_errors(vectors.vectors, directions.mean_errors),
        "error_of_partial": relative_errors(directions.partial, directions.partial_errors),
        "error_of_lda": relative_errors(directions.lda, directions.lda_errors),
        "cosine_of_mean_and_partial": _cosines(vectors.vectors, directions.partial),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if value != value else _rounded(value) for value in row])
    with storage.atomic_file(storage.join(output, TABLE)) as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    run.text(TABLE, text.getvalue())


def _rounded(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else value


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.sum(a * b, axis=1) / np.where(lengths > 0, lengths, np.nan))
