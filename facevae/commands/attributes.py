"""`attributes`: a model and shards to attribute vectors, scored on held-out images."""

import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from facevae.attributes.encode import WRITTEN, encode_shards, plan_encoders
from facevae.attributes.hdf5 import VECTORS, write_hdf5
from facevae.attributes.latents import read_latents
from facevae.attributes.scores import HeldOutScores, auc_mean
from facevae.attributes.statistics import AttributeStatistics, reduce_shards
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.commands.check_labels import check_vectors
from facevae.commands.choose_precision import choose_precision
from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.commands.run_step import OTHER_SHARDS, Metrics, Step, Work, run_step
from facevae.config import HELD_OUT_SPLITS, AttributesConfig, Split
from facevae.data.shard_files import Manifest, read_manifest
from facevae.errors import UserError
from facevae.models.checkpoint import LoadedModel, ModelCard, load_model
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.ray_cluster.placement import ActorPlan
from facevae.report import plots
from facevae.report.grids import save_or_warn
from facevae.runs import storage
from facevae.tracking import SHARDS_RUN_TAG, TRAINING_RUN_TAG, Run, model_folder, trained_by

CLAIM = "source.json"
MAX_REJECTED = 0.001
"""largest share of images whose latent may be not finite"""


def compute_attributes(config: AttributesConfig) -> Metrics:
    """Compute the vectors of all attributes, or go on with it, or find them computed.

    Writes `attribute_vectors.h5`, `latents/`, `statistics/`, `similarity.png`, `auc.png` and
    `result.json`.

    Returns:
        `auc/<attribute>` on the held-out splits (NaN: none has it, or none lacks it), `auc/mean`,
        and image counts.

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
        product=VECTORS,
        why_missing=_why_missing(manifest),
        written={"": rf"{re.escape(VECTORS)}|similarity\.png|auc\.png|result\.json", **WRITTEN},
    )
    return run_step(step, partial(_prepare, config, manifest, model))


def _identity(config: AttributesConfig, manifest: Manifest, card: ModelCard) -> dict[str, Any]:
    """What may not change when a pass goes on; a precision that is not chosen yet is left out."""
    encoding = config.encoding.model_dump(include={"batch_size", "precision", "min_count"})
    if encoding["precision"] == "auto":
        del encoding["precision"]
    return {"model_digest": card.digest, "shards_digest": manifest.digest, **encoding}


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
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    plan = plan_encoders(config.encoding, nodes)
    precision = choose_precision(
        "encoding.precision",
        config.encoding.precision,
        claimed.get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.labels,
    )
    encoding = config.encoding.model_copy(update={"precision": precision})
    config = config.model_copy(update={"encoding": encoding})
    return Work(
        config.model_dump(mode="json"),
        _identity(config, manifest, model.card),
        partial(_compute, config, manifest, model, plan),
        trained_by(config.model, model.card),
    )


def _compute(
    config: AttributesConfig, manifest: Manifest, model: LoadedModel, plan: ActorPlan, run: Run
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
    encoded = sum(part.count for part in by_split.values())
    auc = _write_vectors(config, manifest, vectors, encoded, run)
    metrics = {
        "images": float(encoded),
        "rejected": float(sum(part.rejected for part in by_split.values())),
        **({"images_per_second": done.images / seconds} if done.images else {}),
        "vectors": float(vectors.valid.sum()),
        **{f"auc/{name}": value for name, value in auc.items()},
        "auc/mean": auc_mean(auc),
    }
    run.metrics(0, metrics)
    _draw(vectors, auc, config.output, run)
    return metrics


def _write_vectors(
    config: AttributesConfig, manifest: Manifest, vectors: AttributeVectors, count: int, run: Run
) -> dict[str, float]:
    """Write and log the vectors beside the latents of `count` images; returns their scores."""
    scores = HeldOutScores(vectors)

    def latents() -> Iterator[LatentBatch]:
        for batch in read_latents(config.output, manifest):
            scores.add(batch)
            yield batch

    write_hdf5(storage.join(config.output, VECTORS), vectors, latents(), count, log=run.file)
    return scores.auc()


def _draw(vectors: AttributeVectors, auc: Mapping[str, float], output: str, run: Run) -> None:
    """Write and log the pictures of the vectors and of their scores."""
    charts = {
        "similarity.png": partial(plots.similarity_heatmap, vectors.vectors, vectors.names),
        "auc.png": partial(plots.auc_bars, auc),
    }
    for name, draw in charts.items():
        if picture := save_or_warn(draw, storage.join(output, name)):
            run.picture(name, picture)


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
