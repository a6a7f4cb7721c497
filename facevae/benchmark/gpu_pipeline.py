"""A short training by Ray on synthetic faces, killed half way and given again."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ray

from facevae.benchmark.bench import Bench
from facevae.benchmark.cases import logged
from facevae.benchmark.gpu_check import Row
from facevae.benchmark.resume import killed_and_resumed
from facevae.config import BenchmarkConfig
from facevae.ray_cluster.connect import connect


class Training(NamedTuple):
    """How long it is, and on how many faces."""

    faces: int = 2_000
    steps: int = 1_000
    batch: int = 128


def pipeline_rows(training: Training, folder: Path, use_gpu: bool) -> Iterator[Row]:
    """Images per second through Ray, and the time that a killed training takes to go on."""
    connect()
    try:
        config = BenchmarkConfig(steps=training.steps, precision="fp32")
        bench = Bench(config, folder, f"sqlite:///{folder}/mlflow.db")
        shards = bench.shards(training.faces, 64)
        half = training.steps // 2
        train = bench.train_config(
            shards,
            bench.fresh("train"),
            training={
                "precision": "auto",
                "checkpoint_every": half,
                "global_batch_size": training.batch,
            },
            scaling={"gpu": "yes" if use_gpu else "no"},
        )
        seconds = killed_and_resumed(bench, train, half)
        rate = statistics.median(logged(train, "train/images_per_second"))
        waited = statistics.median(logged(train, "train/waiting_for_data"))
    finally:
        ray.shutdown()
    yield Row("training by Ray, O-Net layers at 64 pixels: speed", rate, "images/s")
    yield Row("training by Ray: share of time that waits for images", 100 * waited, "%")
    yield Row("training by Ray, killed: from the new command to its first step", seconds, "s")
