"""`attributes`: a model and shards to attribute vectors, scored on held-out images."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from facevae import figures, pictures, runtime, storage
from facevae.attributes.encode import encode_shards, plan_encoders
from facevae.attributes.hdf5 import VECTORS, write_hdf5
from facevae.attributes.latents import read_latents
from facevae.attributes.scores import HeldOutScores, auc_mean
from facevae.attributes.statistics import AttributeStatistics, reduce_shards
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.checkpoint import LoadedModel, ModelCard, load_model
from facevae.config import AttributesConfig, Split
from facevae.data.shards import Manifest, read_manifest
from facevae.errors import UserError
from facevae.lock import run_lock
from facevae.progress import say
from facevae.ray_job import submission_id
from facevae.tracking import (
    SHARDS_RUN_TAG,
    TRAINING_RUN_TAG,
    Run,
    model_folder,
    start_run,
    trained_by,
)
from facevae.verbs.places import check_places, places_of
from facevae.verbs.precision import choose_precision

CLAIM = "source.json"
MAX_REJECTED = 0.001
"""largest share of images whose latent may be not finite"""


def compute_attributes(config: AttributesConfig) -> dict[str, float]:
    """Compute the vectors of all attributes, or go on with it, or find them computed.

    Writes `attribute_vectors.h5`, `latents/`, `statistics/`, `similarity.png`, `auc.png` and
    `result.json`.

    Returns:
        `auc/<attribute>` on the held-out splits, `auc/mean`, and image counts.

    Raises:
        UserError: no such shards or model, a cluster too small, a folder of other vectors, or
            another driver at work on it.
    """
    output, folder = storage.absolute(config.output), storage.absolute(config.shards)
    manifest = read_manifest(folder)
    with model_folder(config.model, config.tracking, output) as path:
        model = load_model(path)
    storage.make_folder(output)
    result = storage.join(output, "result.json")
    if storage.exists(result):
        _check_claim(output, config, manifest, model.card)
        say(f"already done: {output}")
        return dict(storage.read_json(result))
    with run_lock(output, "facevae attributes", submission_id()):
        _check_claim(output, config, manifest, model.card)
        metrics = _compute(config, output, folder, manifest, model)
        storage.write_json(result, metrics)
    return metrics


def _compute(
    config: AttributesConfig, output: str, folder: str, manifest: Manifest, model: LoadedModel
) -> dict[str, float]:
    runtime.connect()
    nodes = runtime.nodes()
    check_places(places_of(config), len(nodes))
    plan = plan_encoders(config.encoding, nodes)
    precision = choose_precision(
        "encoding.precision",
        config.encoding.precision,
        _claimed(output).get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.encoder_labels,
    )
    encoding = config.encoding.model_copy(update={"precision": precision})
    config = config.model_copy(update={"encoding": encoding})
    storage.write_json(storage.join(output, CLAIM), _claim(config, manifest, model.card))
    settings = config.model_dump(mode="json")
    training_run = trained_by(config.model, model.card)
    with start_run(
        config.tracking,
        "attributes",
        output,
        settings,
        model_run=training_run,
        submission_id=submission_id(),
    ) as run:
        run.tags({TRAINING_RUN_TAG: model.card.run_id, SHARDS_RUN_TAG: manifest.run_id or ""})
        run.dataset("shards", manifest.digest, "encoding")
        started = time.perf_counter()
        done = encode_shards(folder, manifest, model, config.encoding, plan, output)
        seconds = time.perf_counter() - started
        by_split = reduce_shards(done.statistics)
        _check_counts(by_split, manifest)
        vectors = mean_difference(
            by_split["train"],
            manifest.attribute_names,
            config.encoding.min_count,
            model_digest=model.card.digest,
            shards_digest=manifest.digest,
            labels_digest=manifest.labels_digest,
        )
        uri = storage.join(output, VECTORS)
        encoded = sum(part.count for part in by_split.values())
        scores = HeldOutScores(vectors)

        def latents() -> Iterator[LatentBatch]:
            for batch in read_latents(output, manifest):
                scores.add(batch)
                yield batch

        write_hdf5(uri, vectors, latents(), encoded, log=run.file)
        auc = scores.auc()
        metrics = {
            "images": float(encoded),
            "rejected": float(sum(part.rejected for part in by_split.values())),
            **({"images_per_second": done.images / seconds} if done.images else {}),
            "vectors": float(vectors.valid.sum()),
            **{f"auc/{name}": value for name, value in auc.items()},
            "auc/mean": auc_mean(auc),
        }
        _publish(run, output, vectors, auc, metrics)
    return metrics


def _claim(config: AttributesConfig, manifest: Manifest, card: ModelCard) -> dict[str, Any]:
    """What a folder is of, none of which may change when a pass goes on."""
    return {
        "model_digest": card.digest,
        "shards_digest": manifest.digest,
        **config.encoding.model_dump(include={"batch_size", "precision", "min_count"}),
    }


def _claimed(output: str) -> dict[str, Any]:
    """What a folder is of; empty: of nothing yet."""
    uri = storage.join(output, CLAIM)
    return dict(storage.read_json(uri)) if storage.exists(uri) else {}


def _check_claim(
    output: str, config: AttributesConfig, manifest: Manifest, card: ModelCard
) -> None:
    """Refuse a folder of another model or data set; precision auto is whatever it has."""
    theirs = _claimed(output)
    for key, value in _claim(config, manifest, card).items():
        is_free = not theirs or (key, value) == ("precision", "auto")
        if not is_free and theirs.get(key) != value:
            raise UserError(
                f"{output} holds latents of another {key} ({theirs.get(key)} there, {value} "
                "here); choose another --output"
            )


def _check_counts(by_split: Mapping[Split, AttributeStatistics], manifest: Manifest) -> None:
    """Each image of the manifest was counted once, and hardly any has a latent that is no number.

    Raises:
        UserError: no images to compute vectors from, or too many rejected ones.
    """
    for split, total in by_split.items():
        seen, expected = total.count + total.rejected, manifest.rows(split)
        assert seen == expected, f"{seen} of {expected} '{split}' images were counted"
    if "train" not in by_split:
        raise UserError("the shards have no images in their 'train' split to compute vectors from")
    rejected = sum(total.rejected for total in by_split.values())
    if rejected > MAX_REJECTED * manifest.rows():
        raise UserError(
            f"{rejected} of {manifest.rows()} images have a latent that is not finite: the model "
            "is broken; train it again with a lower learning rate"
        )


def _publish(
    run: Run,
    output: str,
    vectors: AttributeVectors,
    auc: dict[str, float],
    metrics: dict[str, float],
) -> None:
    charts = {
        "similarity.png": figures.similarity_heatmap(vectors.vectors, vectors.names),
        "auc.png": figures.auc_bars(auc),
    }
    for name, picture in charts.items():
        pictures.save_png(picture, storage.join(output, name))
        run.picture(name, picture)
    run.metrics(0, {key: value for key, value in metrics.items() if np.isfinite(value)})
