"""`quickstart`: from faces to a smile; the other commands in a row, in one folder and one store."""

import shlex
from typing import Any, TypeVar

import torch

from facevae.commands.attributes import CLAIM as VECTORS_CLAIM
from facevae.commands.attributes import compute_attributes
from facevae.commands.check_labels import check_editing, check_source
from facevae.commands.edit import edit_faces
from facevae.commands.paths import NO_SOURCE, with_absolute_paths
from facevae.commands.run_step import RESULT, Metrics, write_result
from facevae.commands.shards import shard_faces
from facevae.commands.train import CLAIM, train_model
from facevae.config import (
    AttributesConfig,
    EditConfig,
    QuickstartConfig,
    ShardsConfig,
    TrackingConfig,
    TrainConfig,
)
from facevae.data.shard_files import read_manifest
from facevae.data.sources.make_source import make_source
from facevae.errors import UserError
from facevae.models.precision import resolve_precision
from facevae.ray_cluster.address import is_this_machine
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.ray_cluster.placement import plan_workers
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import store_uri
from facevae.training.budget import steps_in


def quickstart(config: QuickstartConfig) -> Metrics:
    """Shards, training, attribute vectors and edited faces, below one output folder.

    Returns:
        The metrics of training, attributes and editing.

    Raises:
        UserError: as the commands do.
    """
    config = with_absolute_paths(config)
    output = config.output
    if not storage.exists(storage.join(output, "train", CLAIM)):
        storage.refuse_foreign(output, RESULT.replace(".", r"\."))
    _refuse_longer(config, output)
    uri = store_uri(config.tracking, output)
    tracking = config.tracking.model_copy(update={"uri": uri})
    outputs = {
        command: storage.join(output, command)
        for command in ("shards", "train", "attributes", "edit")
    }
    shards = config.shards
    if shards is None:
        shards = outputs["shards"]
        check_source(make_source(config, config.sharding), config.editing)
        shard_faces(_part(ShardsConfig, config, tracking, output=shards))
    # Before hours of training, not after.
    manifest = read_manifest(shards)
    check_editing(shards, manifest, config.editing, config.encoding.min_count)
    training = _part(
        TrainConfig, config, tracking, output=outputs["train"], shards=shards, **NO_SOURCE
    )
    metrics = train_model(_in_time(training, config, manifest.image_size))
    metrics |= compute_attributes(
        AttributesConfig(
            output=outputs["attributes"],
            shards=shards,
            model=outputs["train"],
            encoding=config.encoding,
            tracking=tracking,
        )
    )
    metrics |= edit_faces(
        EditConfig(
            output=outputs["edit"],
            model=outputs["train"],
            vectors=outputs["attributes"],
            editing=config.editing,
            tracking=tracking,
        )
    )
    write_result(output, metrics)
    _log_pictures(outputs, uri)
    return metrics


def _refuse_longer(config: QuickstartConfig, output: str) -> None:
    """Check that the vectors are not of a shorter training, before hours of a longer one.

    Raises:
        UserError: they are.
    """
    train, vectors = storage.join(output, "train"), storage.join(output, "attributes")
    claim = storage.join(train, CLAIM)
    if config.training_minutes is not None:
        return  # steps are those that it was begun with
    if not (storage.exists(claim) and storage.exists(storage.join(vectors, VECTORS_CLAIM))):
        return
    steps, before = config.training.steps, storage.read_json(claim)["training"]["steps"]
    if steps > before:
        raise UserError(
            f"{vectors} is of the model of {before} steps, not {steps}: choose another --output; "
            f"or give facevae train the --output {train}, and facevae attributes one of its own"
        )


Part = TypeVar("Part", ShardsConfig, TrainConfig)


def _part(
    kind: type[Part], config: QuickstartConfig, tracking: TrackingConfig, **changes: Any
) -> Part:
    """The settings of one command, taken from those of all."""
    shared = {name: getattr(config, name) for name in kind.model_fields}
    return kind(**(shared | {"tracking": tracking, **changes}))


def _in_time(training: TrainConfig, config: QuickstartConfig, image_size: int) -> TrainConfig:
    """The training with as many steps as its time allows, or as were begun with."""
    most, batch_size = training.training.steps, training.training.global_batch_size
    if config.training_minutes is None or not is_this_machine() or training.scaling.most > 1:
        return training
    claim = storage.join(training.output, CLAIM)
    if storage.exists(claim):
        steps = min(most, int(storage.read_json(claim)["training"]["steps"]))
    else:
        connect()
        use_gpu = plan_workers(training.scaling, cluster_nodes()).use_gpu
        device = torch.device("cuda" if use_gpu else "cpu")
        precision = resolve_precision(training.training.precision, device).arithmetic
        fitting, rate = steps_in(
            config.training_minutes, _with(training, precision=precision), image_size, device
        )
        fewest = max(config.fewest_steps, training.training.warmup_steps + 1)
        steps = min(most, max(fitting, fewest))
        minutes = steps * batch_size / rate / 60
        log(f"train: {steps} steps at {rate:.0f} images/s, about {minutes:.1f} minutes")
    return _with(training, steps=steps)


def _with(training: TrainConfig, **changes: Any) -> TrainConfig:
    return training.model_copy(update={"training": training.training.model_copy(update=changes)})


def _log_pictures(outputs: dict[str, str], uri: str) -> None:
    pictures = {
        "reconstructed faces": storage.join(outputs["train"], "grids"),
        "loss curves": storage.join(outputs["train"], "curves.png"),
        "vector similarity": storage.join(outputs["attributes"], "similarity.png"),
        "held-out AUC": storage.join(outputs["attributes"], "auc.png"),
        "edited faces": storage.join(outputs["edit"], "edit_labelled.png"),
    }
    log("pictures:")
    for name, place in pictures.items():
        log(f"  {name:<20}{place}")
    is_server = uri.startswith(("http://", "https://"))
    ui = shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    log(f"all runs: {uri if is_server else ui}")
