"""What training does not outlive: the same error, raised again and again."""

import pytest
import ray
from ray.train import TrainingFailedError

from facevae.config import TrainConfig
from facevae.training.board import ProgressBoard
from facevae.training.failures import SAME_ERRORS, StopAtMistakes
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


def test_an_error_that_comes_back_ends_it_and_other_ones_do_not(board):
    stop = StopAtMistakes(board)
    for port in range(10):  # each lost worker is another
        stop.after_exception(None, {0: RuntimeError(f"Connection closed by peer :{port}")})
    for step in range(10):  # in between it trains
        ray.get(board.show.remote(step, {}))
        stop.after_exception(None, {0: ValueError("no")})
    again = {0: RuntimeError("Connection closed by peer :7"), 1: ValueError("Traceback\n\nno\n")}
    stop.after_exception(None, again)
    with pytest.raises(ValueError, match="no"):
        stop.after_exception(None, {1: ValueError("no")})
