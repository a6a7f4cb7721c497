"""A training that loses a node and gets it back ends as one that nothing happened to.

The nodes are a head and two raylets of this machine. Workers wait at given steps for what happens
to them, so that every run of this test is the same.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from facevae.commands.train import train_model
from facevae.config import TrainConfig
from facevae.models.checkpoint import TrainingState, load_training
from tests.ray.noting import assert_every_image_once_an_epoch, the_one_run, trained_rows

REPOSITORY = Path(__file__).parents[2]
STEPS, BATCH, CHECKPOINT_EVERY = 60, 24, 10
LOST_AT, FOUND_AT = 23, 37
WORKERS = [2] * 20 + [1] * 10 + [2] * 30
"""that train each step of the surviving history, from the checkpoints before"""
SECONDS = 240
DRIVER = REPOSITORY / "tests" / "drivers" / "elastic_training.py"
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
}
"""what finds a lost node in seconds"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the nodes need addresses of 127.0.0.0/8"
)


class Elastic(NamedTuple):
    """The output of the run, the notes of its workers, and what its driver said."""

    output: Path
    notes: Path
    said: str


def settings(shards: Path, output: Path, workers: int | tuple[int, int]) -> dict:
    return {
        "output": str(output),
        "shards": str(shards),
        "model": {"latent_size": 8, "batch_norm_decay": 0.9},
        "loss": {"reconstruction": "pixel", "beta": 1e-4},
        "training": {
            "steps": STEPS,
            "global_batch_size": BATCH,
            "log_every": 1,
            "grid_every": STEPS,
            "grid_faces": 4,
            "validate_every": 20,
            "validation_images": 16,
            "checkpoint_every": CHECKPOINT_EVERY,
            "ema_decay": 0.9,
            "sync_batch_norm": True,
        },
        "scaling": {"workers": workers},
        "tracking": {"system_metrics": False},
    }


@pytest.fixture(scope="module")
def quiet(shards, tmp_path_factory) -> TrainingState:
    """The end of the run on two workers that nothing happens to."""
    output = tmp_path_factory.mktemp("quiet") / "run"
    train_model(TrainConfig(**settings(shards, output, 2)))
    return load_training(output / "checkpoints" / f"step_{STEPS:07d}")


class Nodes:
    """A head without CPUs and two nodes with one each, as processes."""

    def __init__(self, folder: Path) -> None:
        """Starts them."""
        import processes
        import services

        self._processes, self._services = processes, services
        self.head = services.HEAD_ADDRESS
        self._cluster = processes.Cluster(folder)
        ray_alone = {k: v for k, v in services.client_environment().items() if k[:4] == "RAY_"}
        self._cluster.begin(2, ray_alone | QUICK)
        try:
            gcs = services.start_head(self._cluster)
            for number in (1, 2):
                services.start_worker(self._cluster, number, gcs, cpus=1)
        except BaseException:
            self.end()
            raise
        self.client = self._cluster.environment | {"RAY_ADDRESS": f"{self.head}:{gcs}"}

    def kill_one(self) -> None:
        """End the second node and all that it started, by SIGKILL."""
        self._processes.kill(self._cluster.part("worker-2"))

    def start_it_again(self) -> None:
        self._services.start_again(self._cluster, "worker-2")

    def end(self) -> None:
        self._cluster.end()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "cluster" / "rehearsal"))
        found = Nodes(tmp_path_factory.mktemp("nodes"))
    yield found
    found.end()


@contextmanager
def started(folder: Path, nodes: Nodes, config: dict) -> Iterator[subprocess.Popen[bytes]]:
    """The driver, which is ended at the latest with the block."""
    (folder / "notes").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    steps = map(str, (LOST_AT, FOUND_AT, SECONDS))
    words = [sys.executable, DRIVER, folder / "notes", nodes.head, *steps]
    words += ["--config", "config.json"]
    environment = os.environ | nodes.client | {"PYTHONPATH": str(REPOSITORY)}
    with (folder / "said").open("w") as said:
        driver = subprocess.Popen(words, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


@pytest.fixture(scope="module")
def elastic(shards, nodes, tmp_path_factory) -> Elastic:
    """The run on one or two workers, whose second node is lost and comes back."""
    folder = tmp_path_factory.mktemp("elastic")
    output, notes = folder / "run", folder / "notes"
    with started(folder, nodes, settings(shards, output, (1, 2))) as driver:

        def wait_for(*paths: Path) -> None:
            deadline = time.monotonic() + SECONDS
            while not all(path.exists() for path in paths):
                said = (folder / "said").read_text()
                assert driver.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)

        wait_for(notes / "two-0", notes / "two-1", output / "checkpoints" / "step_0000020")
        nodes.kill_one()
        (notes / "lost").touch()
        wait_for(notes / "one", output / "checkpoints" / "step_0000030")
        nodes.start_it_again()
        code = driver.wait(SECONDS)
    said = (folder / "said").read_text()
    assert code == 0, said
    return Elastic(output, notes, said)


@pytest.fixture(scope="module")
def end(elastic) -> TrainingState:
    return load_training(elastic.output / "checkpoints" / f"step_{STEPS:07d}")


def test_two_workers_trained_then_one_then_two(elastic, end):
    history = [row["train/workers"] for row in end.history if "train/workers" in row]
    assert history == WORKERS
    assert "train: workers 2 -> 1 from step 21 on" in elastic.said
    assert "train: workers 1 -> 2 from step 31 on" in elastic.said


def test_every_image_is_trained_once_an_epoch(elastic, shards):
    rows = trained_rows(elastic.notes)
    order = [row for step, workers in enumerate(WORKERS, 1) for row in rows[step, workers]]
    assert len(order) == STEPS * BATCH
    assert_every_image_once_an_epoch(order, shards)
    for (step, _), batch in rows.items():  # those that were trained twice, too
        assert batch == order[(step - 1) * BATCH : step * BATCH]


def test_it_ends_where_the_run_ends_that_nothing_happened_to(quiet, end):
    """To rounding, which training amplifies: the sums of one worker are not those of two."""
    for name, tolerance in (("train/loss", 1e-4), ("validation/loss", 1e-3), ("train/kl", 1e-3)):
        ours, theirs = (np.array([r[name] for r in s.history if name in r]) for s in (end, quiet))
        print(f"{name}: relative difference {abs(ours / theirs - 1).max():.1e} at most")
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, err_msg=name)
        assert name == "validation/loss" or (ours[:20] == theirs[:20]).all(), name
    for ours, theirs in ((end.weights, quiet.weights), (end.average, quiet.average)):
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            difference = (ours[name] - expected).abs().max() / expected.abs().max()
            assert difference < 1e-2, name


def test_one_mlflow_run_has_every_step_once_and_marks_the_restarts(elastic):
    client, run = the_one_run(elastic.output)
    assert run.data.tags["facevae.starts"] == "1 21 31"
    tried = trained_rows(elastic.notes).keys()
    for name in ("train/loss", "train/workers"):
        points = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in points] == [*range(1, STEPS + 1)]
    # A step that was trained twice is there as it was logged first.
    assert {(point.step, point.value) for point in points} <= tried
