"""Where a command reads and writes, checked against the machines that must see it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from facevae.config import (
    AlignConfig,
    AttributesConfig,
    EvaluateConfig,
    ImportFacenetConfig,
    Settings,
    ShardsConfig,
    SourceConfig,
    TrainConfig,
)
from facevae.errors import UserError
from facevae.runs import storage
from facevae.tracking import MLFLOW_MODELS, sqlite_path, store_uri

UPLOADS = "working_dir_files"
"""the folder below which Ray unpacks what a job was submitted with"""
SOURCE_PATHS = ("images", "attributes", "partition", "identities")
"""the settings of a source of faces that are paths"""
NO_SOURCE: dict[str, Any] = {**dict.fromkeys((*SOURCE_PATHS, "file_names")), "sources": ()}
"""the settings of a command that needs no source any more"""
PATHS = ("output", "shards", "model", "vectors", "image", "checkpoint", "init_from", *SOURCE_PATHS)
"""the settings of commands that are paths; a command has some"""
Config = TypeVar("Config", bound=Settings)


def with_absolute_paths(config: Config) -> Config:
    """The settings with every path in its one spelling, in which it is compared and recorded."""
    changes: dict[str, object] = dict(_absolute(config, _path_names(config)))
    if isinstance(config, SourceConfig):
        changes["sources"] = tuple(
            each.model_copy(update=dict(_absolute(each, SOURCE_PATHS))) for each in config.sources
        )
    if isinstance(config, TrainConfig) and config.loss.own_weights is not None:
        weights = storage.absolute(str(config.loss.own_weights))
        changes["loss"] = config.loss.model_copy(update={"weights": weights})
    return config.model_copy(update=changes)


def _path_names(config: Settings) -> tuple[str, ...]:
    """The settings of a command that are paths."""
    if isinstance(config, ImportFacenetConfig):  # its model is the name of an architecture
        return tuple(name for name in PATHS if name != "model")
    return PATHS


def _absolute(config: Settings, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings of these names that are paths, in their one spelling."""
    for name in names:
        path = getattr(config, name, None)
        if isinstance(path, str) and not path.startswith(MLFLOW_MODELS):
            yield name, storage.absolute(path)


def paths_of(
    config: AlignConfig | ShardsConfig | TrainConfig | AttributesConfig | EvaluateConfig,
) -> dict[str, str | None]:
    """What a command reads and writes on all machines, by its option; none: nothing."""
    paths: dict[str, str | None] = {}
    for name in ("output", "shards", "images"):
        path = getattr(config, name, None)
        paths[f"--{name}"] = storage.absolute(path) if path else None
    if isinstance(config, SourceConfig):
        for source in config.sources:
            paths[f"images of --sources {source.name}"] = storage.absolute(source.images)
    if isinstance(config, TrainConfig):
        paths["--loss.weights"] = str(config.loss.own_weights) if config.loss.own_weights else None
        paths["--tracking.uri"] = sqlite_path(store_uri(config.tracking, config.output))
    return paths


def check_paths(paths: Mapping[str, str | None], machines: int) -> None:
    """Check that every machine of the cluster can see the paths.

    Args:
        paths: absolute paths or URIs, by the option that names them; none: not given.
        machines: nodes of the cluster.

    Raises:
        UserError: a path is on one machine's own disk, or in a folder that Ray deletes.
    """
    for option, path in paths.items():
        if path is None or not storage.is_local(path):
            continue
        if UPLOADS in Path(path).parts:
            raise UserError(
                f"{option} {path} lies in the job's uploaded files, which Ray deletes: give an "
                "absolute path or a URI such as s3://bucket/folder"
            )
        if machines > 1 and not storage.shared_by_machines(path):
            raise UserError(
                f"{option} {path} is on one machine's own disk "
                f"({storage.file_system_type(path)}), and the cluster has {machines} nodes: give "
                "a path on a network file system, or s3://, gs:// or hf:// where a URI may be"
            )
