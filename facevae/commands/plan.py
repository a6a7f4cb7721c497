"""What a command would take of a cluster, as lines to read: `--dry_run`.

`describe_plan` needs only the nodes as values, and makes and starts nothing; `dry_run` asks Ray
for them.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from facevae.commands.estimate import (
    Data,
    data_lines,
    encode_lines,
    node_lines,
    shards_lines,
    train_lines,
)
from facevae.commands.paths import check_paths, paths_of
from facevae.config import (
    AttributesConfig,
    BenchmarkConfig,
    EditConfig,
    ModelConfig,
    QuickstartConfig,
    ShardsConfig,
    Split,
    TrainConfig,
)
from facevae.data.make_shards import plan_shards
from facevae.data.shard_files import read_manifest
from facevae.data.sources.make_source import make_source
from facevae.errors import UserError
from facevae.models.checkpoint import read_card
from facevae.perceptual.network import check_perceptual_network
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.runs import storage
from facevae.tracking import model_folder

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def dry_run(command: str, config: Any) -> list[str]:
    """The plan of a command on the cluster that it would run on.

    Raises:
        UserError: data, model or settings are wrong, or something does not fit.
    """
    if command == "edit":
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
    plans: dict[str, Callable[[Any, Sequence[Node], bool], list[str]]] = {
        "shards": _shards_plan,
        "train": _train_plan,
        "attributes": _attributes_plan,
        "edit": _edit_plan,
        "quickstart": _quickstart_plan,
        "benchmark": _benchmark_plan,
    }
    if is_cluster and command != "edit":
        check_paths(paths_of(config), len(nodes))
    return [*node_lines(nodes), *plans[command](config, nodes, is_cluster)]


# --- one function per command --------------------------------------------------------------------


def _shards_plan(config: ShardsConfig, nodes: Sequence[Node], is_cluster: bool) -> list[str]:
    data = _source_data(config, is_cluster)
    return [*data_lines("faces to store", data), *shards_lines(data, config, nodes)]


def _train_plan(config: TrainConfig, nodes: Sequence[Node], is_cluster: bool) -> list[str]:
    if config.loss.reconstruction == "perceptual" and is_cluster:
        check_perceptual_network(config.loss)
    data = _training_data(config, is_cluster)
    lines = data_lines("images", data)
    if config.shards is None:
        lines += shards_lines(data, config, nodes)
    return lines + train_lines(data, config, nodes)


def _attributes_plan(
    config: AttributesConfig, nodes: Sequence[Node], is_cluster: bool
) -> list[str]:
    data = _stored_data(config.shards, ShardsConfig().sharding.image_size, is_cluster)
    model = _known_model(config, is_cluster)
    return [*data_lines("images", data), *encode_lines(data, config.encoding, model, nodes)]


def _edit_plan(config: EditConfig, nodes: Sequence[Node], is_cluster: bool) -> list[str]:
    editing = config.editing
    faces = len(editing.image_ids or ()) or editing.faces
    return [
        f"edit: {faces} faces at {len(editing.strengths)} strengths, in this process on its CPU; "
        "takes nothing of a cluster"
    ]


def _benchmark_plan(config: BenchmarkConfig, nodes: Sequence[Node], is_cluster: bool) -> list[str]:
    from facevae.commands.benchmark import plan_lines  # no other plan waits for its imports

    return plan_lines(config, nodes)


def _quickstart_plan(
    config: QuickstartConfig, nodes: Sequence[Node], is_cluster: bool
) -> list[str]:
    edit = EditConfig(model="", vectors="", editing=config.editing)
    data = _training_data(config, is_cluster)
    return [
        *_train_plan(config, nodes, is_cluster),
        *encode_lines(data, config.encoding, config.model, nodes),
        *_edit_plan(edit, nodes, is_cluster),
    ]


# --- what is known before ------------------------------------------------------------------------


def _training_data(config: TrainConfig, is_cluster: bool) -> Data:
    if config.shards is None:
        return _source_data(config, is_cluster)
    return _stored_data(config.shards, config.sharding.image_size, is_cluster)


def _source_data(config: ShardsConfig | TrainConfig, is_cluster: bool) -> Data:
    size, per_shard = config.sharding.image_size, config.sharding.images_per_shard
    try:
        splits = make_source(config, config.sharding).splits
    except (UserError, OSError):
        if is_cluster:
            raise
        return Data(size, None, None)
    counts = Counter(splits)
    shards = len(plan_shards(splits, per_shard))
    return Data(size, {split: counts[split] for split in SPLITS}, shards)


def _stored_data(folder: str, image_size: int, is_cluster: bool) -> Data:
    try:
        manifest = read_manifest(storage.absolute(folder))
    except (UserError, OSError):
        if is_cluster:
            raise
        return Data(image_size, None, None)
    images = {split: manifest.rows(split) for split in SPLITS}
    return Data(manifest.image_size, images, len(manifest.shards))


def _known_model(config: AttributesConfig, is_cluster: bool) -> ModelConfig | None:
    has_store = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if config.model.startswith(("runs:/", "models:/")) and not (is_cluster and has_store):
        return None  # MLflow would make a store in the output folder
    try:
        with model_folder(config.model, config.tracking, storage.absolute(config.output)) as path:
            return read_card(path).model
    except (UserError, OSError):
        if is_cluster:
            raise
        return None
