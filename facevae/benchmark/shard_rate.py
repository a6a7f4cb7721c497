"""Sharding without Ray, on the CPUs of one machine, with a process per core."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from facevae.config import ShardsConfig
from facevae.data.make_shards import WriteShard, plan_shards, shard_item
from facevae.data.sources import FaceSource
from facevae.data.sources.make_source import make_source

RESIDENT_FACES = 128


class Faces(NamedTuple):
    """What is stored: a configuration, and how many processes do it."""

    config: ShardsConfig
    processes: int


def ceiling(faces: Faces) -> float:
    """Faces per second from the source to encoded squares in memory, all cores at it."""
    source = make_source(faces.config, faces.config.sharding)
    writer = WriteShard("", source, faces.config.sharding)
    rows = list(range(min(RESIDENT_FACES, len(source.faces.image_ids))))
    ids, labels = [source.faces.image_ids[row] for row in rows], source.faces.attributes[rows]
    with _processes(faces) as pool:
        started = time.perf_counter()
        tasks = [pool.submit(writer.squares, ids, labels) for _ in range(4 * faces.processes)]
        for task in tasks:
            task.result()
        return len(tasks) * len(rows) / (time.perf_counter() - started)


def bare_loop(faces: Faces) -> float:
    """The plainest good program: a process per core, each writes one shard after the other."""
    source, sharding = make_source(faces.config, faces.config.sharding), faces.config.sharding
    with tempfile.TemporaryDirectory() as folder, _processes(faces) as pool:
        started = time.perf_counter()
        list(pool.map(WriteShard(folder, source, sharding).write, _batches(source, faces.config)))
        return len(source.faces.image_ids) / (time.perf_counter() - started)


def _processes(faces: Faces) -> ProcessPoolExecutor:
    """Started and warmed up: what they import is no part of the work."""
    pool = ProcessPoolExecutor(
        faces.processes, mp_context=multiprocessing.get_context("forkserver")
    )
    list(pool.map(_wait, [0.5] * faces.processes))
    return pool


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _batches(source: FaceSource, config: ShardsConfig) -> Iterator[dict[str, np.ndarray]]:
    """One shard per batch, in the form in which Ray Data gives them."""
    for plan in plan_shards(source.splits, config.sharding.images_per_shard):
        item = shard_item(source, plan)
        yield {
            "name": np.array([item["name"]]),
            "split": np.array([item["split"]]),
            "image_ids": np.array([item["image_ids"]]),
            "attributes": item["attributes"][None],
        }
