"""`shards`: raw faces to Parquet shards."""

from facevae import runtime, storage
from facevae.config import ShardsConfig
from facevae.data.sharding import claim_folder, make_shards, make_source
from facevae.data.shards import Manifest, read_manifest
from facevae.data.sources import FaceSource
from facevae.lock import run_lock
from facevae.progress import say
from facevae.ray_job import submission_id
from facevae.tracking import start_run
from facevae.verbs.places import check_places, places_of


def shard_faces(config: ShardsConfig) -> dict[str, float]:
    """Write shards of raw faces, or go on with it, or find them written.

    Returns:
        `images`, `images/<split>`, `quarantined`, `shards` and `bytes_per_image`.

    Raises:
        UserError: bad source, a folder with another data set, another driver at work on it, or too
            many quarantined faces.
    """
    config = config.model_copy(update={"output": storage.absolute(config.output)})
    source = make_source(config, config.sharding)
    storage.make_folder(config.output)
    result = storage.join(config.output, "result.json")
    if _is_written(config) and storage.exists(result):
        claim_folder(config.output, source, config.sharding)
        say(f"already done: {config.output}")
        return _figures(read_manifest(config.output))
    with run_lock(config.output, "facevae shards", submission_id()):
        claim_folder(config.output, source, config.sharding)
        figures = _shard(config, source)
        storage.write_json(result, figures)
    return figures


def _is_written(config: ShardsConfig) -> bool:
    return storage.exists(storage.join(config.output, "manifest.json"))


def _shard(config: ShardsConfig, source: FaceSource) -> dict[str, float]:
    is_written = _is_written(config)
    labels = {} if is_written else _prepare_cluster(config)
    settings = config.model_dump(mode="json")
    with start_run(
        config.tracking, "shards", config.output, settings, submission_id=submission_id()
    ) as run:
        # An earlier try may have written all and then lost the tracking server.
        manifest = (
            read_manifest(config.output)
            if is_written
            else make_shards(config, source, run.id.run_id, labels)
        )
        run.dataset("shards", manifest.digest, "written")
        figures = _figures(manifest)
        run.metrics(0, figures)
        run.json("quarantined.json", manifest.quarantined)
    return figures


def _prepare_cluster(config: ShardsConfig) -> dict[str, str]:
    """Attach to the cluster; returns the labels of the nodes that write shards."""
    runtime.connect()
    nodes = runtime.nodes()
    check_places(places_of(config), len(nodes))
    return runtime.pool_labels(nodes, "data")


def _figures(manifest: Manifest) -> dict[str, float]:
    images = manifest.rows()
    return {
        "images": float(images),
        **{f"images/{split}": float(manifest.rows(split)) for split in ("train", "val", "test")},
        "quarantined": float(sum(manifest.quarantined.values())),
        "shards": float(len(manifest.shards)),
        "bytes_per_image": sum(shard.bytes for shard in manifest.shards) / max(images, 1),
    }
