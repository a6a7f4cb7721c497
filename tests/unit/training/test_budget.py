"""The steps that fit in a time are those that the clock says."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from facevae.config import TrainConfig
from facevae.training import budget


@pytest.mark.parametrize(("a_step", "minutes", "expected"), [(0.5, 1.0, 120), (3.0, 0.5, 10)])
def test_steps_are_the_time_over_that_of_a_step(monkeypatch, a_step, minutes, expected):
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * a_step)
    monkeypatch.setattr(budget, "time", clock)
    config = TrainConfig(
        model={"latent_size": 2},
        loss={"reconstruction": "pixel"},
        training={"global_batch_size": 2, "precision": "fp32"},
    )
    steps, rate = budget.steps_in(minutes, config, 48, torch.device("cpu"))
    assert (steps, rate) == (expected, 2 / a_step)
