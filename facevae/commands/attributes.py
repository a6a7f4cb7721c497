"""`attributes`: a model and shards to attribute vectors, scored on held-out images."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from facevae.attributes.encode import WRITTEN, encode_shards
from facevae.attributes.hdf5 import VECTORS
from facevae.attributes.latents import read_latents
from facevae.attributes.statistics import AttributeStatistics, reduce_shards
from facevae.attributes.vectors import LatentBatch, mean_difference
from facevae.commands.check_labels import check_vectors, of_shards
from facevae.commands.choose_precision import plan_encoding
from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.commands.people import read_people, table_digest, with_people
from facevae.commands.run_step import OTHER_SHARDS, RESULT, Metrics, Step, Work, run_step
from facevae.commands.write_vectors import WRITTEN_FILES, derive, write_vectors
from facevae.config import HELD_OUT_SPLITS, AttributesConfig, DirectionsConfig, Split
from facevae.data.shard_files import Manifest, read_image_ids, read_manifest
from facevae.errors import UserError
from facevae.models.checkpoint import LoadedModel, ModelCard, load_model
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.ray_cluster.placement import ActorPlan
from facevae.tracking import SHARDS_RUN_TAG, TRAINING_RUN_TAG, Run, model_folder, trained_by

CLAIM = "source.json"
MAX_REJECTED = 0.001
"""largest share of images whose latent may be not finite"""
FIRST_IDENTITY = {"directions": DirectionsConfig().model_dump(), "identities": None}
"""of folders of a version that had no such settings"""


def compute_attributes(config: AttributesConfig) -> Metrics:
    """Compute the vectors of all attributes, or go on with it, or find them computed.

    Writes `attribute_vectors.h5`, `directions.csv`, `latents/`, `statistics/`, `similarity.png`,
    `auc.png`, `confidence.png` and `result.json`.

    Returns:
        `auc/<attribute>` on the held-out splits (NaN: none has it, or none lacks it), `auc/mean`,
        `lda_auc/mean`, what directions rest on, and image counts.

    Raises:
        UserError: no such shards or model, labels that give no vector, a cluster too small, a
            folder of other vectors, or another driver at work on it.
    """
    config = with_absolute_paths(config)
    manifest = read_manifest(config.shards)
    with model_folder(config.model, config.tracking, config.output) as path:
        model = load_model(path)
    step = Step(
        command="attributes",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity=_identity(config, manifest, model.card),
        remedies={"shards_digest": OTHER_SHARDS},
        defaults=FIRST_IDENTITY,
        product=VECTORS,
        why_missing=_why_missing(manifest),
        written={"": "|".join(map(re.escape, (*WRITTEN_FILES, RESULT))), **WRITTEN},
    )
    return run_step(step, partial(_prepare, config, manifest, model))


def _identity(config: AttributesConfig, manifest: Manifest, card: ModelCard) -> dict[str, Any]:
    """What may not change when a pass goes on; a precision that is not chosen yet is left out."""
    encoding = config.encoding.model_dump(include={"batch_size", "precision", "min_count"})
    if encoding["precision"] == "auto":
        del encoding["precision"]
    return {
        "model_digest": card.digest,
        "shards_digest": manifest.digest,
        **encoding,
        "directions": config.directions.model_dump(),
        "identities": table_digest(config.identities),
    }


def _why_missing(manifest: Manifest) -> str:
    """Why an attribute may have no score."""
    held_out = manifest.rows(*HELD_OUT_SPLITS)
    if not held_out:
        return f"the shards have no images in their {' and '.join(HELD_OUT_SPLITS)} splits"
    return f"of {held_out:,} held-out images none has the attribute, or none lacks it"


def _prepare(
    config: AttributesConfig, manifest: Manifest, model: LoadedModel, claimed: Mapping[str, Any]
) -> Work:
    check_vectors(config.shards, manifest, config.encoding.min_count)
    people = None if config.identities is None else _read_people(config, manifest)
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    plan, encoding = plan_encoding(config.encoding, claimed, nodes)
    config = config.model_copy(update={"encoding": encoding})
    return Work(
        config.model_dump(mode="json"),
        _identity(config, manifest, model.card),
        partial(_compute, config, manifest, model, plan, people),
        trained_by(config.model, model.card),
    )


def _read_people(config: AttributesConfig, manifest: Manifest) -> dict[str, int]:
    assert config.identities is not None
    ids = of_shards(read_image_ids, config.shards, manifest)
    return read_people(config.identities, [name for names in ids for name in names])


def _compute(
    config: AttributesConfig,
    manifest: Manifest,
    model: LoadedModel,
    plan: ActorPlan,
    people: Mapping[str, int] | None,
    run: Run,
) -> Metrics:
    run.tags({TRAINING_RUN_TAG: model.card.run_id, SHARDS_RUN_TAG: manifest.run_id or ""})
    run.dataset("shards", manifest.digest, "encoding")
    started = time.perf_counter()
    done = encode_shards(config.shards, manifest, model, config.encoding, plan, config.output)
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

    def batches() -> Iterator[LatentBatch]:
        for batch in read_latents(config.output, manifest):
            yield batch if people is None else with_people(batch, people)

    train = by_split["train"]
    _, directions = derive(
        batches(),
        train.positive_mean.shape,
        has_gaps=manifest.missing_labels,
        min_count=config.encoding.min_count,
        config=config.directions,
        posterior_variance=train.posterior_variance_sum / max(train.count, 1),
        folds_by_identity=people is not None,
    )
    encoded = sum(part.count for part in by_split.values())
    metrics = {
        "images": float(encoded),
        "rejected": float(sum(part.rejected for part in by_split.values())),
        **({"images_per_second": done.images / seconds} if done.images else {}),
        "vectors": float(vectors.valid.sum()),
        **write_vectors(
            config.output, replace(vectors, directions=directions), batches(), encoded, run
        ),
    }
    run.metrics(0, metrics)
    return metrics


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
            "is broken; train another with a lower training.learning_rate"
        )
