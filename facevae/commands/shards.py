"""`shards`: raw faces to Parquet shards."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from facevae.commands.align import show_lost_faces
from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.commands.run_step import Metrics, Step, Work, run_step
from facevae.config import PartsConfig, ShardsConfig
from facevae.data.aligned_images import REASONS
from facevae.data.detector_actors import DetectorPlan, plan_detectors
from facevae.data.make_shards import WRITTEN, describe_data_set, make_shards
from facevae.data.shard_files import MANIFEST, Manifest, read_manifest, read_quarantine
from facevae.data.sources import FaceSource
from facevae.data.sources.make_source import make_source
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import cluster_nodes, pool_labels
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import Run


def shard_faces(config: ShardsConfig) -> Metrics:
    """Write shards of raw faces, or go on with it, or find them written.

    Returns:
        `images`, `images/<split>`, `quarantined`, `shards` and `bytes_per_image`; of aligned faces
        also `found`, the share of the photographs that were read in which there is a face.

    Raises:
        UserError: bad source, a folder with another data set, another driver at work on it, or too
            many quarantined faces.
    """
    config = with_absolute_paths(config)
    source = make_source(config, config.sharding)
    step = Step(
        command="shards",
        output=config.output,
        tracking=config.tracking,
        claim="source.json",
        identity=describe_data_set(source, config.sharding),
        product=MANIFEST,
        written={"": r"manifest\.json|quarantine\.csv|lost_faces\.png|result\.json", **WRITTEN},
    )
    return run_step(step, partial(_prepare, config, source, step.identity))


def _prepare(
    config: ShardsConfig, source: FaceSource, identity: Mapping[str, Any], _: Mapping[str, Any]
) -> Work:
    # An earlier attempt may have written all and then lost the tracking server.
    is_written = storage.exists(storage.join(config.output, MANIFEST))
    if not source.attribute_names:
        log("shards: the images have no labels: a model can be trained on them, but no vectors")
    labels, detectors = ({}, None) if is_written else _prepare_cluster(config)

    def work(run: Run) -> Metrics:
        if is_written:
            manifest = read_manifest(config.output)
        else:
            manifest = make_shards(config, source, run.id.run_id, labels, detectors)
        run.dataset("shards", manifest.digest, "written")
        metrics = _metrics(manifest)
        if config.sharding.align:
            lost = _lost(config.output)
            if config.sharding.alignment.no_face != "centre":  # those are stored like faces
                metrics["found"] = manifest.rows() / max(manifest.rows() + len(lost), 1)
            show_lost_faces(config.output, source.load, lost, run)
        run.metrics(0, metrics)
        run.json("quarantined.json", manifest.quarantined)
        return metrics

    return Work(config.model_dump(mode="json"), identity, work)


def _prepare_cluster(config: ShardsConfig) -> tuple[dict[str, str], DetectorPlan | None]:
    """Attach to the cluster; returns the labels of the nodes that write shards, and detectors."""
    connect()
    nodes = cluster_nodes()
    check_paths(paths_of(config), len(nodes))
    detectors = plan_detectors(PartsConfig(), nodes) if config.sharding.align else None
    return pool_labels(nodes, "data"), detectors


def _lost(folder: str) -> list[str]:
    """The photographs in which no face was found."""
    no_face = REASONS["no_face"]
    return [face.image_id for face in read_quarantine(folder) if face.reason == no_face]


def _metrics(manifest: Manifest) -> Metrics:
    images = manifest.rows()
    return {
        "images": float(images),
        **{f"images/{split}": float(manifest.rows(split)) for split in ("train", "val", "test")},
        "quarantined": float(sum(manifest.quarantined.values())),
        "shards": float(len(manifest.shards)),
        "bytes_per_image": sum(shard.bytes for shard in manifest.shards) / max(images, 1),
    }
