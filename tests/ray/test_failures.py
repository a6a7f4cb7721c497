"""What training does not outlive: the same error, raised again and again."""

import pytest
import ray
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torch.distributed import DistBackendError

from facevae.config import TrainConfig
from facevae.errors import UserError
from facevae.training.board import ProgressBoard
from facevae.training.failures import (
    SAME_ERRORS,
    RepeatedError,
    StopAtMistakes,
    ending_at_repeated_errors,
)
from facevae.verbs import train
from tests.ray.noting import noting, tries


@pytest.fixture
def board():
    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    yield board
    ray.kill(board)


def test_a_bug_ends_the_run_with_its_traceback(shards, tmp_path, monkeypatch):
    def at_step(step, rank):
        if step == 3:
            raise ZeroDivisionError("a bug at step 3")

    monkeypatch.setattr(train, "train_worker", noting(tmp_path, at_step))
    config = TrainConfig(
        output=str(tmp_path / "run"),
        shards=str(shards),
        model={"latent_size": 8},
        loss={"reconstruction": "pixel"},
        training={"steps": 4, "global_batch_size": 24, "log_every": 1},
        tracking={"system_metrics": False},
    )
    with pytest.raises(TrainingFailedError, match="ZeroDivisionError: a bug at step 3"):
        train.train_model(config)
    assert tries(tmp_path) == SAME_ERRORS


def test_an_error_that_comes_back_at_one_step_ends_it_and_other_ones_do_not(board):
    def fail(error: Exception, rank: int = 0) -> None:
        with ending_at_repeated_errors(board, rank):
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
    raised(UserError("mend it"), 5, UserError)
    raised(ValueError("no"), SAME_ERRORS - 1, ValueError)
    raised(ValueError("no"), 1, ValueError, rank=1)
    ray.get(board.show.remote(1, {}))
    raised(ValueError("no"), SAME_ERRORS - 1, ValueError)
    with pytest.raises(RepeatedError, match="3 times at the same step, ValueError: no"):
        fail(ValueError("no"))


def test_lost_workers_do_not_end_a_run_however_often_they_are_looked_at():
    lost = WorkerHealthCheckFailedError("no answer", ray.exceptions.ActorDiedError())
    for _ in range(10):
        StopAtMistakes().after_exception(None, {0: lost, 1: ValueError("of now")})
