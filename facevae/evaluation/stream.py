"""The Ray Data pass that measures shards; what it leaves are records.

On CPU an actor reads, decodes and measures a shard; on GPU tasks read and decode, and actors only
measure. Actors hold weights, never totals, so that a shard may be measured twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from facevae.attributes.encode import ReadShard, read_pixels
from facevae.config import EncodingConfig
from facevae.data.shard_files import Shard
from facevae.evaluation.measure import (
    Arrays,
    Instruments,
    measure_edits,
    measure_held_out,
    measure_training,
)
from facevae.evaluation.probes import Probes
from facevae.evaluation.records import (
    EDITS,
    MEASURES,
    WRITTEN,
    find_record,
    read_record,
    write_record,
)
from facevae.evaluation.sampling import Sample
from facevae.models.folding import fold_batch_norms
from facevae.ray_cluster.connect import LOST_PROCESS, errors_left_out
from facevae.ray_cluster.placement import ActorPlan
from facevae.runs import storage
from facevae.runs.progress import progress
from facevae.runs.retries import Attempts, run_with_retries

Row = dict[str, Any]
Measure = Callable[[Instruments, Shard, Row], Arrays]


class Pass(NamedTuple):
    """One way through some shards."""

    title: str
    """of its progress"""
    shards: tuple[Shard, ...]
    record: str
    """the folder of its records"""
    measure: Measure
    """a shard's row with its pixels, if it is of those, to its record; goes to workers"""
    reads_pixels: bool
    counts: dict[str, int]
    """how many images each shard has for the pass"""


class MeasureShards:
    """An actor: a shard, by name or decoded -> {name, error}; writes its record."""

    def __init__(
        self,
        folder: str,
        output: str,
        work: Pass,
        tools: "ray.ObjectRef[Instruments]",
        plan: ActorPlan,
        attempts: int,
    ) -> None:
        """Loads the weights onto the actor's device."""
        if not plan.use_gpu:
            torch.set_num_threads(1)  # as many threads everywhere, so the same bits everywhere
        found: Instruments = ray.get(tools)
        fold_batch_norms(found.vae)
        self._tools = found.to(torch.device(plan.device))
        self._folder, self._output, self._work = folder, output, work
        self._attempts = Attempts(output, attempts)

    def __call__(self, batch: Row) -> Row:
        """Measure one shard and write its record; an error becomes a row."""
        if "error" in batch:  # of its reader
            return batch
        shard = Shard(*(np.asarray(batch[field.name][0]).item() for field in fields(Shard)))
        if find_record(self._output, self._work.record, shard) is not None:  # by a dead actor
            return {"name": [shard.name], "error": [""]}
        return self._attempts.row(shard.name, lambda: self._measure(shard, batch))

    def _measure(self, shard: Shard, batch: Row) -> None:
        if self._work.reads_pixels and "pixels" not in batch:
            batch = read_pixels(self._folder, batch)
        arrays = self._work.measure(self._tools, shard, batch)
        write_record(self._output, self._work.record, shard, arrays)


@dataclass(frozen=True)
class MeasureImages:
    """Measures held-out images, and features of the training images that the judge learns from.

    A class, and no closure: it goes to workers by its name.
    """

    sample: Sample
    seed: int
    """of the latents that are sampled"""

    def __call__(self, tools: Instruments, shard: Shard, batch: Row) -> Arrays:
        """The record of a shard."""
        stored, labels = np.asarray(batch["pixels"][0]), np.asarray(batch["attributes"][0])
        if shard.split == "train":
            return {"labels": labels, **measure_training(tools, stored)}
        chosen = self.sample.rows[shard.name]
        random = np.random.default_rng((self.seed, chosen.first))
        size = int(chosen.is_reference.sum()), tools.vae.latent_size
        noise = random.standard_normal(size, np.float32)
        return {
            "image_id": np.asarray(batch["image_id"][0], np.str_),
            "labels": labels,
            **measure_held_out(tools, stored, chosen.rows, noise),
        }


@dataclass(frozen=True)
class MeasureEditedFaces:
    """Measures faces whose attributes are moved, from the latents of their records."""

    output: str
    sample: Sample
    probes: Probes
    targets: Sequence[int]
    strengths: Sequence[float]

    def __call__(self, tools: Instruments, shard: Shard, batch: Row) -> Arrays:
        """The record of a shard's edits."""
        found, chosen = read_record(self.output, MEASURES, shard), self.sample.rows[shard.name]
        # Images without a finite latent were chosen, and not decoded.
        wanted = np.isin(found["decoded"], chosen.rows[chosen.is_edited])
        latents = found["latents"][wanted]
        logits = measure_edits(tools, self.probes, latents, self.targets, self.strengths)
        return {"targets": np.array(self.targets), **logits}


def measuring_pass(sample: Sample, seed: int) -> Pass:
    """The pass over held-out images, and over the training images that the judge learns from."""
    shards = (*sample.held_out, *sample.training)
    counts = {shard.name: shard.rows for shard in shards}
    return Pass("evaluate", shards, MEASURES, MeasureImages(sample, seed), True, counts)


def editing_pass(
    output: str,
    sample: Sample,
    probes: Probes,
    targets: Sequence[int],
    strengths: Sequence[float],
) -> Pass:
    """The pass over faces whose attributes are moved; it begins where the measuring pass ended."""
    measure = MeasureEditedFaces(output, sample, probes, targets, strengths)
    counts = {s.name: int(sample.rows[s.name].is_edited.sum()) for s in sample.edited}
    return Pass("edit faces", sample.edited, EDITS, measure, False, counts)


def run_pass(
    work: Pass,
    folder: str,
    output: str,
    tools: Instruments,
    config: EncodingConfig,
    plan: ActorPlan,
) -> int:
    """Measure all shards of a pass that have no record; returns once all have.

    Args:
        work: the pass.
        folder: the shards.
        output: where the records go.
        tools: what measures.
        config: how often a shard is attempted.
        plan: actors.

    Returns:
        How many images were measured; not those of an earlier run.

    Raises:
        UserError: a shard failed too often.
    """
    storage.remove_partial_writes(storage.join(output, work.record), WRITTEN[work.record])
    finished: set[str] = set()
    begun: set[str] = set()
    rows = work.counts
    attempts = Attempts(output, config.attempts)

    def todo() -> list[str]:
        for shard in work.shards:
            if shard.name not in finished and find_record(output, work.record, shard) is not None:
                finished.add(shard.name)
        return [shard.name for shard in work.shards if shard.name not in finished]

    with progress(work.title, sum(rows.values()), "images") as bar:

        def run(names: Sequence[str]) -> dict[str, str]:
            begun.update(names)
            failed = {}
            done = sum(rows.values()) - sum(rows[name] for name in names)
            chosen = [shard for shard in work.shards if shard.name in set(names)]
            with errors_left_out():
                for row in _tasks(work, folder, output, tools, plan, attempts, chosen).iter_rows():
                    if row["error"]:
                        failed[row["name"]] = row["error"]
                        continue
                    done += rows[row["name"]]
                    bar(done)
            return failed

        run_with_retries(attempts, todo, run, LOST_PROCESS)
    return sum(rows[name] for name in begun)


def _tasks(
    work: Pass,
    folder: str,
    output: str,
    tools: Instruments,
    plan: ActorPlan,
    attempts: Attempts,
    todo: list[Shard],
) -> "ray.data.Dataset":
    dataset = ray.data.from_items([asdict(s) for s in todo], override_num_blocks=len(todo))
    if plan.use_gpu and work.reads_pixels:
        dataset = dataset.map_batches(
            ReadShard(folder, attempts),
            batch_size=1,
            label_selector=plan.reader_labels or None,
        )
    actor = (folder, output, work, ray.put(tools), plan, attempts.most)
    return dataset.map_batches(
        MeasureShards,
        fn_constructor_args=actor,
        compute=ray.data.ActorPoolStrategy(size=min(plan.actors, len(todo))),
        batch_size=1,
        **plan.resources,
        label_selector=plan.labels or None,
    )
