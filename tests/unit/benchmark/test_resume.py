"""What is told of a training that loses a worker or its driver, from lines of progress alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from facevae.benchmark import resume
from facevae.benchmark.bench import Bench
from facevae.benchmark.resume import Trainings
from facevae.benchmark.watched_command import Moment, Step, Watched
from facevae.config import BenchmarkConfig
from facevae.errors import UserError
from facevae.runs import storage


class PlayedBench(Bench):
    """Commands that show given lines, at given seconds, instead of running."""

    def __init__(self, folder: Path, *commands: list[tuple[float, int]]) -> None:
        super().__init__(BenchmarkConfig(steps=20), folder, "unused")
        self.commands, self.second = list(commands), 0.0

    def run(self, command, config, at=None):
        moments, driver = [], SimpleNamespace(kill=lambda: self.killed.append(self.second))
        self.config_of_run, self.killed = config, []
        for second, step in self.commands.pop(0):
            self.second = second
            moments.append(Moment(second, Step("train", step, 20, "steps", "")))
            if at is not None:
                at(moments[-1], driver)
        return Watched(self.second, moments, 0, 0, 0, 0, 0, 0.0)


def trainings(bench: Bench) -> Trainings:
    return Trainings(bench, "unused", {"reconstruction": "pixel"})


def test_a_step_is_timed_from_the_first_that_is_seen_to_the_last(tmp_path):
    lines = [(9.0, 0), *((10 + 0.5 * i, 2 + 2 * i) for i in range(10))]
    bench = PlayedBench(tmp_path, lines)
    assert resume.seconds_a_step(trainings(bench), 5) == pytest.approx(0.25)
    assert bench.config_of_run.training.checkpoint_every == 5
    with pytest.raises(UserError, match="20 steps passed in 7 looks at them, too few"):
        resume.seconds_a_step(trainings(PlayedBench(tmp_path, lines[:8])), 5)


@pytest.fixture
def worker(monkeypatch):
    """A worker that dies when it is killed, and one in its place after second 14."""
    worker = SimpleNamespace(bench=None, pid=7, killed=[])
    worker.kill = lambda: worker.killed.append(worker.bench.second)

    def workers(driver, but=0):
        return [worker] if but == 0 or worker.bench.second >= 14 else []

    monkeypatch.setattr(resume, "_workers", workers)
    return worker


def test_what_a_dead_worker_told_last_is_no_step_of_the_next(tmp_path, worker):
    lines = [(1.0 + i, 1 + i) for i in range(9)]
    lines += [(10.0, 10), (10.4, 11), (15.0, 10), (16.0, 11), (17.0, 12), (18.0, 20)]
    worker.bench = PlayedBench(tmp_path, lines)
    seconds = resume.seconds_after_a_lost_worker(trainings(worker.bench), 5)
    assert worker.killed == [10.0]
    assert seconds == pytest.approx(7.0, abs=0.1)


def test_a_training_that_ends_first_is_no_measurement(tmp_path, worker):
    worker.bench = PlayedBench(tmp_path, [(1.0 + i, 1 + i) for i in range(9)])
    with pytest.raises(UserError, match="ended before a worker could be killed"):
        resume.seconds_after_a_lost_worker(trainings(worker.bench), 5)


def test_a_driver_is_killed_once_its_checkpoint_is_there(tmp_path, monkeypatch):
    again = [(1.0, 0), (5.0, 10), (6.5, 11), (7.0, 12)]
    bench = PlayedBench(tmp_path, [(1.0, 11), (2.0, 12), (3.0, 13)], again)
    there = iter([False, True, True, False])  # the last: no result
    asked = []
    monkeypatch.setattr(storage, "exists", lambda uri: asked.append(uri) or next(there))
    assert resume.seconds_after_a_new_command(trainings(bench)) == 6.5
    assert asked[0].endswith("checkpoints/step_0000010")
    assert asked[-1].endswith("result.json")


def test_a_driver_that_ends_by_itself_is_no_measurement(tmp_path, monkeypatch):
    bench = PlayedBench(tmp_path, [(1.0, 9)])
    monkeypatch.setattr(storage, "exists", lambda uri: True)
    with pytest.raises(UserError, match="ended before its driver could be killed"):
        resume.seconds_after_a_new_command(trainings(bench))
