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
from facevae.models.checkpoint import CARD, MODEL_FILES, LoadedModel, check_fits, load_model
from facevae.perceptual.network import check_perceptual_network
from facevae.perceptual.weights import perceptual_weights_digest
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.ray_cluster.placement import WorkerPlan, plan_workers
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import (
    MODEL_NAME,
    SHARDS_RUN_TAG,
    TRAINING_RUN_TAG,
    Run,
    model_folder,
    store_uri,
)
from facevae.training.checkpoint_manager import FOLDER, CheckpointManager
from facevae.training.launch import run_training
from facevae.training.publish import BEST, keep_and_log_models

OTHER_MODEL = (
    "--init_from does not name the weights that it was begun with: name those to go on, or choose "
    "another --output to start afresh"
)
FIXED_STEPS = (
    "the learning rates of the {schedule} schedule depend on it: repeat the old settings to go on, "
    "or choose another --output and start there with --init_from {output}"
)
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
STEPS_TAG, INIT_TAG = "facevae.steps", "facevae.init_digest"


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
    initial = None if config.init_from is None else _initial_model(config, config.init_from)
    trained_on = CheckpointManager(config.output, config.training).shards_digest()
    step = _step(config, given, initial, trained_on)
    return run_step(step, partial(_prepare, config, given, initial, trained_on))


def _step(
    config: TrainConfig, given: Data | None, initial: LoadedModel | None, trained_on: str | None
) -> Step:
    """What is done, and how its folder tells that it is this.

    Args:
        config: the settings, with an absolute output.
        given: the shards; none: they are to be made.
        initial: the model to start from, if any.
        trained_on: the digest of the shards that the folder's checkpoints are of, if there are any.
    """
    shards_digest = given and given.manifest.digest
    remedies = {"shards_digest": OTHER_SHARDS, "init_digest": OTHER_MODEL}
    schedule, growing = config.training.schedule, ["training.steps"]
    if schedule != "step":
        growing = []
        remedies["training.steps"] = FIXED_STEPS.format(schedule=schedule, output=config.output)
    return Step(
        command="train",
        output=config.output,
        tracking=config.tracking,
        claim=CLAIM,
        identity=train_identity(config, shards_digest, initial and initial.card.digest),
        defaults=train_identity(TrainConfig(), trained_on or shards_digest),
        remedies=remedies,
        growing=growing,
        paths=("shards", *SOURCE_PATHS, "loss.weights"),
        product=f"{MODEL_NAME}/{CARD}",
        written=WRITTEN,
    )


def train_identity(
    config: TrainConfig, shards_digest: str | None = None, init_digest: str | None = None
) -> dict[str, Any]:
    """What may not change when it goes on, without a precision that is not chosen.

    Shards and a model that are given are what their digests say, wherever they lie.
    """
    identity = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    if config.training.precision == "auto":
        identity["training"].pop("precision")
    for name in ("shards", "init_from"):
        if identity[name] is not None:
            del identity[name]
    if shards_digest is not None:
        identity["shards_digest"] = shards_digest
    return identity | {"init_digest": init_digest}


def _initial_model(config: TrainConfig, name: str) -> LoadedModel:
    """The model that training starts from, which fits the configuration."""
    with model_folder(name, config.tracking, config.output) as folder:
        model = load_model(folder)
    check_fits(model.card, config.model, f"--init_from {name}")
    return model


def _prepare(
    config: TrainConfig,
    given: Data | None,
    initial: LoadedModel | None,
    trained_on: str | None,
    claimed: Mapping[str, Any],
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
    tags = {SHARDS_RUN_TAG: data.manifest.run_id or "", STEPS_TAG: str(config.training.steps)}
    if initial is not None:
        tags |= {TRAINING_RUN_TAG: initial.card.run_id, INIT_TAG: initial.card.digest}
    if config.loss.reconstruction == "perceptual":
        tags["facevae.perceptual_weights"] = perceptual_weights_digest(config.loss)

    def work(run: Run) -> Metrics:
        run.dataset(data.shards.rpartition("/")[2], data.manifest.digest, "training")
        run.tags(tags)
        weights = None if initial is None else initial.vae.state_dict()
        unlogged = run_training(config, plan, data.shards, run, weights)
        faces = spread_images(data.shards, data.manifest, "val", 2)
        return keep_and_log_models(config, faces, run, unlogged)

    identity = train_identity(config, digest, initial and initial.card.digest)
    identity |= {"shards": given and given.shards, "init_from": config.init_from}
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
