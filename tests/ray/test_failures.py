"""What training does not outlive: the same error, raised again and again."""

import errno
import shutil
import signal

import pytest
import ray
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torch.distributed import DistBackendError

from facevae.commands.train import train_model
from facevae.config import TrainConfig
from facevae.errors import UnreachableError, UserError
from facevae.training import launch
from facevae.training.coordinator import Coordinator
from facevae.training.failures import (
    SAME_ERRORS,
    RepeatedError,
    StopAtMistakes,
    ending_at_repeated_errors,
)
from tests.ray.noting import attempts, noting


@pytest.fixture
def coordinator():
    coordinator = ray.remote(num_cpus=0)(Coordinator).remote()
    yield coordinator
    ray.kill(coordinator)


def settings(shards, output, workers=1) -> TrainConfig:
    return TrainConfig(
        output=str(output),
        shards=str(shards),
        model={"latent_size": 8},
        loss={"reconstruction": "pixel"},
        training={"steps": 4, "global_batch_size": 24, "log_every": 1},
        scaling={"workers": workers},
        tracking={"system_metrics": False},
    )


def test_a_damaged_shard_ends_the_run_at_once_and_is_named(shards, tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    for shard in (folder / "data").glob("train-*.parquet"):
        content = shard.read_bytes()
        shard.write_bytes(content[:1000] + bytes(2000) + content[3000:])
    monkeypatch.setattr(launch, "train_worker", noting(tmp_path, lambda step, rank: None))
    with pytest.raises(UserError, match=r"damaged shard .*data/train-\d+\.parquet \("):
        train_model(settings(folder, tmp_path / "run"))
    assert attempts(tmp_path) == 1


@pytest.mark.parametrize(
    ("workers", "error"),
    [(1, RepeatedError), pytest.param(2, TrainingFailedError, marks=pytest.mark.long)],
)
def test_a_bug_ends_the_run_with_its_traceback(shards, tmp_path, monkeypatch, workers, error):
    at_interrupt = signal.getsignal(signal.SIGINT)

    def at_step(step, rank):
        if step == 3:
            raise ZeroDivisionError("a bug at step 3")

    monkeypatch.setattr(launch, "train_worker", noting(tmp_path, at_step))
    with pytest.raises(error, match="ZeroDivisionError: a bug at step 3"):
        train_model(settings(shards, tmp_path / "run", workers))
    assert attempts(tmp_path) == SAME_ERRORS * workers
    assert signal.getsignal(signal.SIGINT) is at_interrupt


def test_an_error_that_comes_back_at_one_step_ends_it_and_other_ones_do_not(coordinator):
    def fail(error: Exception, rank: int = 0) -> None:
        with ending_at_repeated_errors(coordinator, rank):
            raise error

    def raised(error: Exception, times: int, expected: type[Exception], rank: int = 0) -> None:
        for _ in range(times):
            with pytest.raises(expected):
                fail(error, rank)

    raised(
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), 5, RuntimeError
    )
    raised(DistBackendError("NCCL error: remote process exited"), 5, DistBackendError)
    raised(ConnectionResetError("S3"), 5, ConnectionResetError)
    raised(UnreachableError("S3 is away"), 5, UnreachableError)
    raised(UserError("mend it"), 5, UserError)
    raised(ValueError("no"), SAME_ERRORS - 1, ValueError)
    raised(ValueError("no"), 1, ValueError, rank=1)
    ray.get(coordinator.show.remote(1, {}))
    raised(ValueError("no"), SAME_ERRORS - 1, ValueError)
    with pytest.raises(RepeatedError, match="3 times at the same step, ValueError: no"):
        fail(ValueError("no"))


def test_lost_workers_do_not_end_a_run_however_often_they_are_looked_at():
    lost = WorkerHealthCheckFailedError("no answer", ray.exceptions.ActorDiedError())
    for _ in range(10):
        StopAtMistakes().after_exception(None, {0: lost, 1: ValueError("of now")})
        StopAtMistakes().after_exception(None, {0: UnreachableError("S3 is away")})
    for mistake in (UserError("mend it"), OSError(errno.ENOSPC, "No space left", "/full")):
        with pytest.raises(UserError, match=r"mend it|cannot write /full: the disk is full"):
            StopAtMistakes().after_exception(None, {0: lost, 1: mistake})
