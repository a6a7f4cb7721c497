"""What a command would take of a cluster, as lines to read: `--dry_run`.

`describe_plan` needs only the nodes as values, and makes and starts nothing; `dry_run` asks Ray
for them.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from facevae.commands.check_labels import check_editing, check_source, check_vectors
from facevae.commands.edit_folder import list_photos, plan_photo_actors
from facevae.commands.estimate import (
    Data,
    align_lines,
    data_lines,
    encode_lines,
    node_lines,
    shards_lines,
    train_lines,
)
from facevae.commands.paths import check_paths, paths_of
from facevae.config import (
    AttributesConfig,
    EditConfig,
    EditingConfig,
    EvaluateConfig,
    EvaluationConfig,
    QuickstartConfig,
    ShardsConfig,
    Split,
    TrainConfig,
)
from facevae.data.make_shards import plan_shards
from facevae.data.shard_files import read_manifest
from facevae.data.sources.make_source import make_source, open_images
from facevae.data.sources.photographs import Photographs
from facevae.errors import UserError
from facevae.models.checkpoint import ModelCard, check_fits, read_card
from facevae.perceptual.network import check_perceptual_network
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.runs import storage
from facevae.tracking import MLFLOW_MODELS, model_folder

SPLITS: tuple[Split, ...] = ("train", "val", "test")
HERE = ("edit", "vectors", "import-facenet", "compare")
"""commands that are the work of this process alone"""
T = TypeVar("T")


def dry_run(command: str, config: Any) -> list[str]:
    """The plan of a command on the cluster that it would run on.

    Raises:
        UserError: data, model or settings are wrong, or something does not fit.
    """
    photos = isinstance(config, EditConfig) and config.image
    if command in HERE and not (photos and storage.is_folder(storage.absolute(photos))):
        return describe_plan(command, config, [])
    connect()
    return describe_plan(command, config, cluster_nodes(), is_cluster=True)


def describe_plan(
    command: str, config: Any, nodes: Sequence[Node], *, is_cluster: bool = False
) -> list[str]:
    """What a command would take of these nodes: bundles, readers, batches, steps, memory.

    Args:
        command: one of the commands.
        config: its configuration.
        nodes: the nodes of the cluster, and those that its autoscaler could add.
        is_cluster: whether this is where the command would run, so that data and models which
            cannot be read are an error; elsewhere they are only said to be unknown.

    Raises:
        UserError: something does not fit; says what to change.
    """
    lines = node_lines(nodes)
    if command == "edit":
        return [*lines, _edit_line(config.editing, config.image, nodes, is_cluster)]
    if command in HERE:
        return [*lines, _local_line(command, config)]
    if is_cluster:
        check_paths(paths_of(config), len(nodes))
        if isinstance(config, TrainConfig) and config.loss.reconstruction == "perceptual":
            check_perceptual_network(config.loss)
    if command == "benchmark":
        from facevae.commands.benchmark import plan_lines  # no other plan waits for its imports

        return lines + plan_lines(config, nodes)
    if command == "align":
        folder = storage.absolute(config.images)
        photographs = _known(lambda: len(Photographs(open_images(folder)).listing()), is_cluster)
        return lines + align_lines(photographs, config, nodes)
    data = _known(lambda: _read_data(config), is_cluster)
    if data is None:
        data = Data(getattr(config, "sharding", ShardsConfig().sharding).image_size)
    if is_cluster:
        _check_labels(command, config)
    lines += data_lines("faces to store" if command == "shards" else "images", data)
    if getattr(config, "shards", None) is None:
        lines += shards_lines(data, config, nodes)
    if isinstance(config, TrainConfig):
        _check_initial_model(config, is_cluster)
        lines += train_lines(data, config, nodes)
    if command in ("attributes", "evaluate"):
        card = _known(lambda: _read_card(config.model, config, is_cluster), is_cluster)
        model = None if card is None else card.model
        lines += encode_lines(data, config.encoding, model, nodes, command)
    if command == "evaluate":
        lines.append(_evaluation_line(data, config.evaluation))
    if command == "quickstart":
        lines += encode_lines(data, config.encoding, config.model, nodes)
        lines.append(_edit_line(config.editing))
    return lines


def _check_labels(command: str, config: Any) -> None:
    """Check the labels of shards that are there, as the command would."""
    if command not in ("attributes", "quickstart") or config.shards is None:
        return
    shards, min_count = storage.absolute(config.shards), config.encoding.min_count
    if command == "attributes":
        check_vectors(shards, read_manifest(shards), min_count)
    else:
        check_editing(shards, read_manifest(shards), config.editing, min_count)


def _local_line(command: str, config: Any) -> str:
    what = ""
    if command == "vectors":
        what = "from stored latents, "
    if command == "compare":
        what = f"{len(config.runs)} evaluations, {config.resamples} resamples, "
    return f"{command}: {what}in this process on its CPU; takes nothing of a cluster"


def _edit_line(
    editing: EditingConfig,
    image: str | None = None,
    nodes: Sequence[Node] = (),
    is_cluster: bool = False,
) -> str:
    faces = len(editing.image_ids or ()) or editing.faces
    if is_cluster and image is not None:
        check_paths({"--image": storage.absolute(image)}, len(nodes))
    photos = image and _known(lambda: _count_photos(image), is_cluster)
    columns = f"{len(editing.level or editing.strengths)} "
    columns += "strengths" if editing.level is None else "levels"
    if photos:
        plan = plan_photo_actors(nodes)
        return (
            f"edit: {photos} photos of {image} at {columns}, by {plan.actors} actors of "
            f"{plan.cpus:.2f} CPUs each"
        )
    what = {
        "attribute": f"{faces} faces at {columns}",
        "transfer": f"{faces} faces given the levels of another",
        "interpolate": f"{editing.steps} steps from one face to another",
        "random": f"{editing.random} random faces",
        "components": f"{editing.components} principal components",
    }[editing.kind]
    if image is not None:
        what = f"the photo {image} at {columns}"
    return f"edit: {what}, in this process on its CPU; takes nothing of a cluster"


def _count_photos(image: str) -> int:
    """How many photos a folder holds; 0: it is a photo itself."""
    folder = storage.absolute(image)
    return len(list_photos(folder, None, {})) if storage.is_folder(folder) else 0


def _evaluation_line(data: Data, evaluation: EvaluationConfig) -> str:
    images = data.images or {}
    of_all = f" of {images['val'] + images['test']}" if images else ""
    return (
        f"evaluate: {evaluation.decoded}{of_all} held-out images are decoded at the most, and "
        f"{evaluation.edited} edited at {len(evaluation.strengths)} strengths per attribute; a "
        f"judge learns from some {evaluation.judge_images} training images"
    )


def _known(read: Callable[[], T], is_cluster: bool) -> T | None:
    """What a function reads; none where it cannot, and the command would run elsewhere."""
    try:
        return read()
    except (UserError, OSError):
        if is_cluster:
            raise
        return None


def _read_data(config: ShardsConfig | TrainConfig | AttributesConfig | EvaluateConfig) -> Data:
    """The images of a command: those of its shards, or those that it would make shards of."""
    if not isinstance(config, ShardsConfig) and config.shards is not None:
        manifest = read_manifest(storage.absolute(config.shards))
        images = {split: manifest.rows(split) for split in SPLITS}
        return Data(manifest.image_size, images, len(manifest.shards))
    assert not isinstance(config, AttributesConfig | EvaluateConfig)
    source = make_source(config, config.sharding)
    if isinstance(config, QuickstartConfig):
        check_source(source, config.editing)
    splits = source.splits
    counts = Counter(splits)
    shards = len(plan_shards(splits, config.sharding.images_per_shard))
    return Data(config.sharding.image_size, {split: counts[split] for split in SPLITS}, shards)


def _check_initial_model(config: TrainConfig, is_cluster: bool) -> None:
    """Check that the weights to start from fit, as far as they can be read."""
    if (name := config.init_from) is not None:
        card = _known(lambda: _read_card(name, config, is_cluster), is_cluster)
        if card is not None:
            check_fits(card, config.model, f"--init_from {name}")


def _read_card(
    name: str, config: AttributesConfig | EvaluateConfig | TrainConfig, is_cluster: bool
) -> ModelCard | None:
    has_store = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if name.startswith(MLFLOW_MODELS) and not (is_cluster and has_store):
        return None  # MLflow would make a store in the output folder
    with model_folder(name, config.tracking, storage.absolute(config.output)) as path:
        return read_card(path)
