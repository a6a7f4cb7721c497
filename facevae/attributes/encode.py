"""The Ray Data pass from shards to latents and statistics.

On CPU an actor reads, decodes and encodes a shard; on GPU tasks read and decode, and actors only
encode. Actors hold weights, never totals: a shard leaves `latents/<shard>.parquet` and
`statistics/<shard>.npz`, so that a task which runs twice only remakes its own files, and a second
run of the same job takes finished shards from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from facevae.attributes.latents import LATENTS, encode_pixels, latents_uri, write_latents
from facevae.attributes.statistics import AttributeStatistics, ShardStatistics
from facevae.attributes.vectors import LatentBatch
from facevae.config import EncodingConfig
from facevae.data import shard_files
from facevae.data.images import decode_jpegs
from facevae.data.shard_files import Manifest, Shard
from facevae.data.shard_records import find_shard_record, write_shard_record
from facevae.errors import UserError
from facevae.models import VAE
from facevae.models.checkpoint import LoadedModel
from facevae.models.folding import fold_batch_norms
from facevae.ray_cluster.connect import LOST_PROCESS, errors_left_out
from facevae.ray_cluster.nodes import Node
from facevae.ray_cluster.placement import ActorPlan, plan_actors
from facevae.runs import storage
from facevae.runs.progress import progress
from facevae.runs.retries import Attempts, run_with_retries

STATISTICS = "statistics"
WRITTEN = {
    LATENTS: rf"{shard_files.NAME_PATTERN}\.parquet",
    STATISTICS: rf"{shard_files.NAME_PATTERN}\.npz",
}
"""what actors write, by folder"""
Row = dict[str, Any]


def plan_encoders(config: EncodingConfig, nodes: Sequence[Node]) -> ActorPlan:
    """The encoder actors of a configuration on a cluster.

    Raises:
        TooSmallError: the cluster cannot hold them; says what to change.
    """
    return plan_actors("encoder", "encoding", config.actors, config.gpu, nodes)


def statistics_uri(folder: str, shard: str) -> str:
    """Where the statistics of a shard lie."""
    return storage.join(folder, STATISTICS, f"{shard}.npz")


def read_pixels(folder: str, batch: Row) -> Row:
    """A shard by name -> its decoded pixels, labels and ids, as one row."""
    rows = shard_files.read_shard(folder, batch["name"][0])
    return {
        **batch,
        "pixels": decode_jpegs(rows.images)[None],
        "attributes": rows.attributes[None],
        "image_id": np.array(rows.image_ids)[None],
    }


class ReadShard:
    """A task: a shard by name -> its decoded row, or one that says why there is none."""

    def __init__(self, folder: str, attempts: Attempts) -> None:
        """Takes the folder of shards, and what counts failures."""
        self._folder, self._attempts = folder, attempts

    def __call__(self, batch: Row) -> Row:
        """Read and decode one shard."""
        decoded: Row = {}
        row = self._attempts.row(
            str(batch["name"][0]), lambda: decoded.update(read_pixels(self._folder, batch))
        )
        return decoded or row


class EncodeShard:
    """An actor: a shard, by name or decoded -> {name, error}; writes latents and statistics."""

    def __init__(
        self,
        folder: str,
        output: str,
        weights: "ray.ObjectRef[VAE]",
        config: EncodingConfig,
        device: str,
        class_scatter: bool,
    ) -> None:
        """Loads the weights onto the actor's device."""
        if device == "cpu":
            torch.set_num_threads(1)  # as many threads everywhere, so the same bits everywhere
        vae: VAE = ray.get(weights)
        fold_batch_norms(vae)
        self._vae = vae.to(device).to(memory_format=torch.channels_last)
        self._folder, self._output, self._config = folder, output, config
        self._class_scatter, self._attempts = class_scatter, Attempts(output, config.attempts)

    def __call__(self, batch: Row) -> Row:
        """Encode one shard and write what it leaves; an error becomes a row."""
        if "error" in batch:  # of its reader
            return batch
        shard = Shard(*(np.asarray(batch[field.name][0]).item() for field in fields(Shard)))
        if _finished(self._output, shard) is not None:  # by an actor that died
            return {"name": [shard.name], "error": [""]}
        return self._attempts.row(shard.name, lambda: self._encode(shard, batch))

    def _encode(self, shard: Shard, batch: Row) -> None:
        if "pixels" not in batch:  # on CPU nothing is gained by moving them between processes
            batch = read_pixels(self._folder, batch)
        stored, attributes = np.asarray(batch["pixels"][0]), np.asarray(batch["attributes"][0])
        config = self._config
        posteriors = encode_pixels(self._vae, stored, config.batch_size, config.precision)
        statistics = AttributeStatistics.of_batch(*posteriors, attributes, self._class_scatter)
        kept = np.isfinite(np.hstack(posteriors)).all(axis=1)  # as the statistics do
        ids = batch["image_id"][0][kept].tolist()
        latents = LatentBatch(
            ids, [shard.split] * len(ids), posteriors.mean[kept], attributes[kept]
        )
        write_latents(self._output, shard.name, latents)
        _write_statistics(self._output, shard.name, shard.sha256, statistics)


class Encoded(NamedTuple):
    """What a pass leaves."""

    statistics: Iterator[ShardStatistics]
    """of all shards, in shard order"""
    images: int
    """that this pass encoded; not those of an earlier one"""


def encode_shards(
    folder: str,
    manifest: Manifest,
    model: LoadedModel,
    config: EncodingConfig,
    plan: ActorPlan,
    output: str,
) -> Encoded:
    """Encode all shards that are not; returns once all are. Latents are left as files.

    Args:
        folder: the shards.
        manifest: their manifest.
        model: the encoder.
        config: batch size and precision, which is chosen: not auto.
        plan: actors.
        output: a folder for this model and these shards alone.

    Raises:
        UserError: a shard failed too often.
    """
    assert config.precision != "auto", "it is chosen once for all actors"
    finished: set[str] = set()
    begun: set[str] = set()
    for name, written in WRITTEN.items():
        storage.remove_partial_writes(storage.join(output, name), written)

    def todo() -> list[str]:
        for shard in manifest.shards:
            if shard.name not in finished and _finished(output, shard) is not None:
                finished.add(shard.name)
        return [shard.name for shard in manifest.shards if shard.name not in finished]

    with progress("encode", manifest.rows(), "images") as bar:

        def run(names: Sequence[str]) -> dict[str, str]:
            begun.update(names)
            failed = {}
            chosen = {shard.name: shard for shard in manifest.shards if shard.name in set(names)}
            done = manifest.rows() - sum(shard.rows for shard in chosen.values())
            with errors_left_out():
                rows = _tasks(folder, manifest, model, config, plan, output, list(chosen.values()))
                for row in rows.iter_rows():
                    if row["error"]:
                        failed[row["name"]] = row["error"]
                        continue
                    done += chosen[row["name"]].rows
                    bar(done)
            return failed

        run_with_retries(Attempts(output, config.attempts), todo, run, LOST_PROCESS)
    images = sum(shard.rows for shard in manifest.shards if shard.name in begun)
    return Encoded(_statistics(output, manifest), images)


def _statistics(output: str, manifest: Manifest) -> Iterator[ShardStatistics]:
    """One shard at a time: of 100 million images all would be gigabytes."""
    for shard in manifest.shards:
        found = _finished(output, shard)
        if found is None:
            raise UserError(
                f"{statistics_uri(output, shard.name)} was damaged meanwhile: give the same "
                "command again"
            )
        yield found


def _tasks(
    folder: str,
    manifest: Manifest,
    model: LoadedModel,
    config: EncodingConfig,
    plan: ActorPlan,
    output: str,
    todo: list[Shard],
) -> "ray.data.Dataset":
    dataset = ray.data.from_items([asdict(s) for s in todo], override_num_blocks=len(todo))
    pool = ray.data.ActorPoolStrategy(size=min(plan.actors, len(todo)))
    if plan.use_gpu:
        dataset = dataset.map_batches(
            ReadShard(folder, Attempts(output, config.attempts)),
            batch_size=1,
            label_selector=plan.reader_labels or None,
        )
    encoder = (folder, output, ray.put(model.vae), config, plan.device, manifest.missing_labels)
    return dataset.map_batches(
        EncodeShard,
        fn_constructor_args=encoder,
        compute=pool,
        batch_size=1,
        **plan.resources,
        label_selector=plan.labels or None,
    )


def _write_statistics(output: str, name: str, sha256: str, statistics: AttributeStatistics) -> None:
    write_shard_record(statistics_uri(output, name), sha256, statistics.to_arrays())


def _finished(output: str, shard: Shard) -> ShardStatistics | None:
    """What an earlier task left of a shard; none if it is still to do, or damaged."""
    uri = statistics_uri(output, shard.name)
    if not storage.exists(latents_uri(output, shard.name)):
        return None
    arrays = find_shard_record(uri, shard.sha256, "encoded again")
    if arrays is None:
        return None
    statistics = AttributeStatistics.from_arrays(arrays)
    return ShardStatistics(shard.name, shard.sha256, {shard.split: statistics})
