"""`train`: shards to a trained VAE."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from facevae.commands.choose_precision import choose_precision
from facevae.commands.paths import SOURCE_PATHS, check_paths, paths_of, with_absolute_paths
from facevae.commands.run_step import (
    OTHER_SHARDS,
    Metrics,
    Step,
    Work,
    of_another,
    run_step,
)
from facevae.commands.shards import shard_faces
from facevae.config import ScalingConfig, ShardsConfig, TrainConfig
from facevae.data.order import spread_images
from facevae.data.shard_files import Manifest, read_manifest
from facevae.errors import UserError
from facevae.models.checkpoint import CARD, MODEL_FILES
from facevae.perceptual.network import check_perceptual_network
from facevae.perceptual.weights import perceptual_weights_digest
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.ray_cluster.placement import WorkerPlan, plan_workers
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import MODEL_NAME, SHARDS_RUN_TAG, Run, store_uri
from facevae.training.checkpoint_manager import FOLDER, CheckpointManager
from facevae.training.launch import run_training
from facevae.training.publish import BEST, keep_and_log_models

WITHOUT_EFFECT: dict[str, Any] = {
    "output": True,
    "tracking": True,
    "scaling": True,
    "training": {"checkpoints_kept", "keep_best", "failed_checkpoints_allowed"},
    "sharding": {"max_bad_fraction", "attempts"},
}
"""settings that may change when a run goes on, since the result does not depend on them"""

WRITTEN = {
    "": r"curves\.png|result\.json",
    "grids": r"step_\d{6,}\.png",
    FOLDER: r"step_\d{7,}",
    **dict.fromkeys((MODEL_NAME, BEST), "|".join(map(re.escape, MODEL_FILES))),
}
CLAIM = "config.json"


class Data(NamedTuple):
    """What is trained on: a folder of shards, and its manifest."""

    shards: str
    manifest: Manifest


def train_model(config: TrainConfig) -> Metrics:
    """Train a VAE, or go on with it, or find it trained.

    The model lands in `<output>/model`, pictures and `result.json` beside it.

    Returns:
        The final metrics by name.

    Raises:
        UserError: settings, data or cluster do not allow it; found before training where it can
            be. Or a loss that is not finite, or another driver at work on the output.
    """
    config = with_absolute_paths(config)
    if config.loss.reconstruction == "perceptual":
        check_perceptual_network(config.loss)
    given = None if config.shards is None else _checked(config.shards)
    shards_digest = given and given.manifest.digest
    trained_on = CheckpointManager(config.output, config.training).shards_digest()
    step = Step(
        command="train",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity=train_identity(config, shards_digest),
        defaults=train_identity(TrainConfig(), trained_on or shards_digest),
        remedies={"shards_digest": OTHER_SHARDS},
        paths=("shards", *SOURCE_PATHS, "loss.weights"),
        product=f"{MODEL_NAME}/{CARD}",
        written=WRITTEN,
    )
    return run_step(step, partial(_prepare, config, given, trained_on))


def train_identity(config: TrainConfig, shards_digest: str | None = None) -> dict[str, Any]:
    """What may not change when it goes on, without a precision that is not chosen.

    Shards that are given are what their digest says, wherever they lie.
    """
    identity = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    if config.training.precision == "auto":
        identity["training"].pop("precision")
    if config.shards is not None:
        identity.pop("shards")
    return identity | ({} if shards_digest is None else {"shards_digest": shards_digest})


def _prepare(
    config: TrainConfig, given: Data | None, trained_on: str | None, claimed: Mapping[str, Any]
) -> Work:
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    plan = plan_workers(config.scaling, nodes)
    _tell_of_idle_gpus(config.scaling, plan, nodes)
    data = given or _checked(_make_shards(config))
    digest = data.manifest.digest
    before = claimed.get("shards_digest", trained_on or digest)
    if claimed and before != digest:
        raise of_another(config.output, "shards_digest", before, digest, OTHER_SHARDS)
    precision = choose_precision(
        "training.precision",
        config.training.precision,
        claimed.get("training", {}).get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.worker_labels,
    )
    training = config.training.model_copy(update={"precision": precision})
    config = config.model_copy(update={"training": training})
    tags = {SHARDS_RUN_TAG: data.manifest.run_id or ""}
    if config.loss.reconstruction == "perceptual":
        tags["facevae.perceptual_weights"] = perceptual_weights_digest(config.loss)

    def work(run: Run) -> Metrics:
        run.dataset(data.shards.rpartition("/")[2], data.manifest.digest, "training")
        run.tags(tags)
        unlogged = run_training(config, plan, data.shards, run)
        faces = spread_images(data.shards, data.manifest, "val", 2)
        return keep_and_log_models(config, faces, run, unlogged)

    identity = train_identity(config, digest) | {"shards": given and given.shards}
    return Work(config.model_dump(mode="json"), identity, work)


def _tell_of_idle_gpus(scaling: ScalingConfig, plan: WorkerPlan, nodes: Sequence[Node]) -> None:
    gpus = sum(int(node.gpus) for node in nodes if not node.has_unsupported_gpu)
    if scaling.gpu == "auto" and gpus and not plan.use_gpu:
        log(
            f"scaling.gpu auto: training runs on CPUs, since {scaling.fewest} workers would need a "
            f"GPU each and there are {gpus}: with --scaling.workers {gpus} it runs on these"
        )


def _make_shards(config: TrainConfig) -> str:
    """Make shards of the source, in the output folder; returns theirs."""
    folder = storage.join(config.output, "shards")
    source = {name: getattr(config, name) for name in ShardsConfig.model_fields if name != "output"}
    source["tracking"] = config.tracking.model_copy(
        update={"uri": store_uri(config.tracking, config.output), "run_name": None}
    )
    shard_faces(ShardsConfig(output=folder, **source))
    return folder


def _checked(shards: str) -> Data:
    """A folder of shards that can be trained on, and its manifest."""
    manifest = read_manifest(shards)
    for split in ("train", "val"):
        if manifest.rows(split) == 0:
            raise UserError(
                f"{shards} has no images in its '{split}' split: give more images, or a --partition"
            )
    return Data(shards, manifest)
