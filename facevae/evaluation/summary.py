"""Records of shards to the measures of a model.

Records are read one at a time, so that memory does not grow with the images; features of the
images that are decoded, a chosen number, are together in memory. Legend: n images, A attributes,
F features.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int8

from facevae.config import HELD_OUT_SPLITS
from facevae.errors import UserError
from facevae.evaluation.classification import (
    Accuracy,
    Histograms,
    ScoreMoments,
    accuracies,
    average_precision,
    roc_auc,
)
from facevae.evaluation.editing import EditMeasures, class_gaps, measure_edits
from facevae.evaluation.frechet import FeatureMoments, frechet_distance
from facevae.evaluation.image_table import FIGURES, ImageRows
from facevae.evaluation.latent_space import LatentMoments
from facevae.evaluation.probes import Probes, fit_probes
from facevae.evaluation.records import EDITS, MEASURES, read_record
from facevae.evaluation.sampling import Sample
from facevae.runs import storage

VISIBLE_AUC = 0.75
"""an attribute that the judge tells less well in real images is not judged"""


class Classification(NamedTuple):
    """How well scores tell each attribute, [A] each."""

    auc: Float64[np.ndarray, " A"]
    """of validation and test images"""
    average_precision: Float64[np.ndarray, " A"]
    """of the same"""
    accuracy: Accuracy
    """of test images, at thresholds of validation images"""


class Pictures(NamedTuple):
    """Distances between samples and real images in a network's features."""

    frechet: float
    """sampled images and half of the real ones"""
    floor: float
    """the other half and that half"""


class Judge(NamedTuple):
    """What a face network sees of the attributes."""

    probes: Probes
    auc: Float64[np.ndarray, " A"]
    """of the probes on real held-out images: the ceiling of what it can tell of edits"""
    gaps: Float64[np.ndarray, " A"]
    """between real images with and without, in logits"""

    def visible(self) -> list[int]:
        """The places of the attributes that it sees well enough to judge."""
        return [int(k) for k in np.flatnonzero(self.auc >= VISIBLE_AUC)]


def held_out_images(
    output: str, sample: Sample, person: Callable[[str], str], knows_people: bool
) -> Iterator[ImageRows]:
    """What was measured of each held-out image, a shard at a time.

    Args:
        output: the folder of the records.
        sample: the images.
        person: who is on an image, by its id.
        knows_people: whether the features are of a network that does; else no identity is kept.
    """
    for shard in sample.held_out:
        record = read_record(output, MEASURES, shard)
        ids, decoded = record["image_id"].tolist(), record["decoded"]
        figures = {"kl": record["kl"].astype(np.float32)}
        for name, column in (
            ("psnr", "psnr"),
            ("ssim", "ssim"),
            ("perceptual_distance", "perceptual"),
            ("identity_kept", "identity"),
        ):
            figures[name] = np.full(len(ids), np.nan, np.float32)
            if knows_people or name != "identity_kept":
                figures[name][decoded] = record[column]
        people = [person(image) for image in ids]
        split = [str(shard.split)] * len(ids)
        yield ImageRows(ids, people, split, record["scores"], record["labels"], figures)


def classify(parts: Callable[[], Iterator[ImageRows]]) -> Classification:
    """How well the scores tell the attributes; reads the images twice, to place the bins first."""
    scale = reduce(ScoreMoments.merge, (ScoreMoments.of(part.scores) for part in parts())).scale()
    totals: dict[str, Histograms] = {}
    for part in parts():
        found = Histograms.of(scale, part.scores, part.labels)
        split = part.split[0]
        totals[split] = totals[split].merge(found) if split in totals else found
    none = Histograms(*np.zeros_like(np.stack(next(iter(totals.values())))))
    validation, test = (totals.get(split, none) for split in HELD_OUT_SPLITS)
    both = validation.merge(test)
    return Classification(roc_auc(both), average_precision(both), accuracies(validation, test))


def mean_figures(parts: Iterator[ImageRows]) -> dict[str, float]:
    """The mean of each figure over the images that have it; NaN where none has."""
    sums, counts = dict.fromkeys(FIGURES, 0.0), dict.fromkeys(FIGURES, 0)
    for part in parts:
        for name, column in part.figures.items():
            sums[name] += float(np.nansum(column, dtype=np.float64))
            counts[name] += int((~np.isnan(column)).sum())
    return {n: sums[n] / counts[n] if counts[n] else float("nan") for n in FIGURES}


def latent_moments(output: str, sample: Sample) -> LatentMoments:
    """The moments of all held-out latents."""

    def of(record: Mapping[str, np.ndarray]) -> LatentMoments:
        return LatentMoments(
            int(record["latents_images"]),
            *(record[f"latents_{name}"] for name in ("mean", "square", "kl")),
        )

    return reduce(LatentMoments.merge, map(of, _records(output, sample)))


def picture_distances(output: str, sample: Sample) -> Pictures:
    """The Frechet distance of samples, and its floor; of as many images each."""
    sets: list[FeatureMoments] | None = None
    for shard, record in zip(sample.held_out, _records(output, sample), strict=True):
        chosen = sample.rows[shard.name]
        is_reference = np.isin(record["decoded"], chosen.rows[chosen.is_reference])
        features = record["features"]
        parts = (features[is_reference], features[~is_reference], record["samples"])
        found = [FeatureMoments.of(part) for part in parts]
        sets = found if sets is None else [a.merge(b) for a, b in zip(sets, found, strict=True)]
    assert sets is not None
    reference, other, samples = sets
    return Pictures(frechet_distance(samples, reference), frechet_distance(other, reference))


def learn_judge(output: str, sample: Sample, min_count: int) -> Judge:
    """Probes fitted on training images, and what they tell of real held-out ones."""
    training = [read_record(output, MEASURES, shard) for shard in sample.training]
    features, labels = (
        np.concatenate([record[name] for record in training]) for name in ("features", "labels")
    )
    probes = fit_probes(features, labels, min_count)
    logits, labels = _judged(output, sample, probes)
    histograms = Histograms.of(ScoreMoments.of(logits).scale(), logits, labels)
    return Judge(probes, roc_auc(histograms), class_gaps(logits, labels))


def edit_measures(
    output: str,
    sample: Sample,
    judge: Judge,
    targets: list[int],
    strengths: tuple[float, ...],
) -> EditMeasures:
    """The measures of all edited faces.

    Raises:
        UserError: an earlier attempt edited other attributes, since its judge saw other ones.
    """
    records = [read_record(output, EDITS, shard) for shard in sample.edited]
    if any(record["targets"].tolist() != targets for record in records):
        folder = storage.join(output, EDITS)
        raise UserError(
            f"{folder} has edits of other attributes, of a judge that learned on another machine: "
            "remove that folder, and the same command makes it again"
        )
    before, target, after, identity = (
        np.concatenate([record[name] for record in records])
        for name in ("before", "target", "after", "identity")
    )
    return measure_edits(
        before,
        target,
        after,
        identity,
        targets=targets,
        strengths=strengths,
        gaps=judge.gaps,
        seen=judge.visible(),
    )


def _judged(
    output: str, sample: Sample, probes: Probes
) -> tuple[Float32[np.ndarray, "n A"], Int8[np.ndarray, "n A"]]:
    """Logits and labels of the real held-out images that were decoded."""
    parts = [
        (probes.logits(record["features"]), record["labels"][record["decoded"]])
        for record in _records(output, sample)
    ]
    logits, labels = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(labels)


def _records(output: str, sample: Sample) -> Iterator[dict[str, np.ndarray]]:
    for shard in sample.held_out:
        yield read_record(output, MEASURES, shard)
