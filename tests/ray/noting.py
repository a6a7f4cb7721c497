"""What the workers of a training note of the images they train, for the tests that interrupt it."""

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from facevae.data.shard_files import read_manifest
from facevae.tracking import read_run_id
from facevae.training.step import Rank


def noting(folder: Path, at_step: Callable[[int, Rank], None]) -> Callable[[dict[str, Any]], None]:
    """Facevae's `train_worker`, which notes the rows of each batch, and calls back before it."""

    def train_worker(job: dict[str, Any]) -> None:
        import ray.train

        from facevae.training import worker

        batches, context = worker.training_batches, ray.train.get_context()
        rank = Rank(context.get_world_rank(), context.get_world_size())

        def noted(shards, plan, share, *rest):
            step = share.start // share.global_batch_size
            name = f"rows-{rank.world_size}-{rank.rank}-{uuid.uuid4().hex}"
            found = contextlib.closing(batches(shards, plan, share, *rest))
            with (folder / name).open("w") as notes, found as stream:
                for batch in stream:
                    step += 1
                    print(step, *batch.rows.tolist(), file=notes, flush=True)
                    at_step(step, rank)
                    yield batch

        worker.training_batches = noted
        try:
            worker.train_worker(job)
        finally:
            worker.training_batches = batches

    return train_worker


def attempts(folder: Path) -> int:
    """How often a worker began to train."""
    return len(list(folder.glob("rows-*")))


def trained_rows(folder: Path) -> dict[tuple[int, int], list[int]]:
    """The rows of the global batch by step and number of workers; the same in every try."""
    parts: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)
    for path in folder.glob("rows-*"):
        ranks, rank = map(int, path.name.split("-")[1:3])
        for line in path.read_text().splitlines():
            step, *rows = map(int, line.split())
            assert parts[step, ranks].setdefault(rank, rows) == rows
    return {
        (step, ranks): [row for rank in range(ranks) for row in shares[rank]]
        for (step, ranks), shares in parts.items()
        if len(shares) == ranks
    }


def the_one_run(output: Path) -> tuple[MlflowClient, Run]:
    """The MLflow run of an output, which is finished and the only one of its experiment."""
    found = read_run_id(str(output))
    client = MlflowClient(found.uri)
    run = client.get_run(found.run_id)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"
    return client, run


def assert_every_image_once_an_epoch(order: list[int], shards: Path) -> None:
    """Assert it of the rows of all steps; there are two epochs or more."""
    images = read_manifest(str(shards)).rows("train")
    epochs = len(order) // images
    assert epochs >= 2
    for epoch in range(epochs):
        found = np.sort(order[epoch * images : (epoch + 1) * images])
        np.testing.assert_array_equal(found, np.arange(images))
