"""A training that is told to stop, loses a worker and loses its driver ends as if it had not.

The signals are sent by the workers themselves, at given steps, so that every run of this test is
the same.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import ray
import torch

from facevae.commands.train import train_model
from facevae.config import TrainConfig
from facevae.models.checkpoint import load_training
from tests.ray.noting import assert_every_image_once_an_epoch, attempts, the_one_run, trained_rows

STEPS, BATCH, RANKS = 60, 24, 2
LOG_EVERY = 4  # so that checkpoints fall between two logged means
TERMINATED_AT, WORKER_KILLED_AT, DRIVER_KILLED_AT, NOTICE_AT = 11, 23, 41, 44
DRIVER = Path(__file__).parents[1] / "drivers" / "interrupted_training.py"


class Ended(NamedTuple):
    """How a driver ended: its exit code, what it said, and when."""

    code: int
    said: str
    at: float


class Interrupted(NamedTuple):
    """The output of the run, the notes of its workers, and the ends of its drivers."""

    output: Path
    notes: Path
    ends: list[Ended]


def settings(shards: Path, output: Path) -> dict:
    return {
        "output": str(output),
        "shards": str(shards),
        "model": {"latent_size": 8},
        "loss": {"reconstruction": "pixel", "beta": 1e-4},
        "training": {
            "steps": STEPS,
            "global_batch_size": BATCH,
            "log_every": LOG_EVERY,
            "grid_every": STEPS,
            "grid_faces": 4,
            "validate_every": 20,
            "validation_images": 16,
            "checkpoint_every": 10,
            "ema_decay": 0.9,
        },
        "scaling": {"workers": RANKS},
        "tracking": {"system_metrics": False},
    }


@pytest.fixture(scope="module")
def quiet(shards, tmp_path_factory) -> Path:
    """The output of the run that nothing interrupts."""
    output = tmp_path_factory.mktemp("quiet") / "run"
    train_model(TrainConfig(**settings(shards, output)))
    return output


@pytest.fixture(scope="module")
def interrupted(shards, tmp_path_factory) -> Interrupted:
    """The same command until it succeeds, three times."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "notes").mkdir()
    (folder / "config.json").write_text(json.dumps(settings(shards, folder / "run")))
    steps = (TERMINATED_AT, WORKER_KILLED_AT, DRIVER_KILLED_AT, NOTICE_AT)
    words = [sys.executable, DRIVER, folder / "notes", *map(str, steps), "--config", "config.json"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    ends = []
    for _ in range(3):
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
        )
        ends.append(Ended(done.returncode, done.stderr, time.time()))
    return Interrupted(folder / "run", folder / "notes", ends)


def test_a_run_that_is_told_to_stop_keeps_a_checkpoint_and_says_so(interrupted):
    first, second, third = interrupted.ends
    assert [first.code, second.code, third.code] == [143, -9, 0], "\n--\n".join(
        e.said for e in interrupted.ends
    )
    assert first.said.endswith("facevae train: stopped; the same command goes on from here\n")
    # A second may pass before Python runs its handler, and steps are short here.
    assert TERMINATED_AT <= _stopped_at(interrupted) < WORKER_KILLED_AT - 3
    asked = float((interrupted.notes / "terminated").read_text())
    print(f"from SIGTERM to the driver's end: {first.at - asked:.1f} s")


def test_the_notice_that_a_node_will_go_makes_a_checkpoint(interrupted):
    assert "train: a node has been told to go; a checkpoint is kept now" in interrupted.ends[2].said
    kept = [int(path.name[5:]) for path in (interrupted.output / "checkpoints").glob("step_*")]
    assert [step for step in kept if NOTICE_AT <= step < 50], kept


def test_weights_and_metrics_are_those_of_the_run_that_nothing_interrupts(quiet, interrupted):
    name = f"checkpoints/step_{STEPS:07d}"
    one, other = load_training(quiet / name), load_training(interrupted.output / name)
    for weights, others in ((one.weights, other.weights), (one.average, other.average)):
        assert weights.keys() == others.keys()
        for key, value in weights.items():
            assert torch.equal(value, others[key]), key
    first_mean = -(-_stopped_at(interrupted) // LOG_EVERY) * LOG_EVERY
    assert _exact(one.history, first_mean) == _exact(other.history, first_mean)


def _stopped_at(interrupted: Interrupted) -> int:
    """The step of the checkpoint that was kept for the stop."""
    found = re.search(r"train: the checkpoint of step (\d+) is kept\n", interrupted.ends[0].said)
    assert found
    return int(found[1])


def _exact(history: list[dict[str, float]], first_mean: int) -> list[dict[str, float]]:
    """What has to agree: all but times, and the first training means after the stop.

    These lack the steps of the other ranks before it.
    """
    rows = [row for row in history if row["step"] != first_mean or "train/loss" not in row]
    times = {"train/images_per_second", "train/waiting_for_data"}
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


def test_every_image_is_trained_once_an_epoch(shards, interrupted):
    """In what survived: of a step that was trained twice, that which the weights hold."""
    assert attempts(interrupted.notes) == 4 * RANKS
    rows = trained_rows(interrupted.notes)
    order = [row for step in range(1, STEPS + 1) for row in rows[step, RANKS]]
    assert len(order) == STEPS * BATCH
    assert_every_image_once_an_epoch(order, shards)


def test_one_mlflow_run_has_every_step_once_and_marks_the_restarts(interrupted):
    client, run = the_one_run(interrupted.output)
    for name in ("train/loss", "train/kl", "train/learning_rate"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == [*range(LOG_EVERY, STEPS + 1, LOG_EVERY)], name
    assert run.data.tags["facevae.restarts"] == "3"
    first, told, worker, driver = map(int, run.data.tags["facevae.starts"].split())
    assert first == 1
    assert told == _stopped_at(interrupted) + 1
    assert worker in (told, 21)  # the checkpoint of step 20 may have been under way
    assert driver in (31, 41)
