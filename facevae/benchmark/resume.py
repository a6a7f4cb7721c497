"""Trainings that lose a worker or their driver: how soon they go on, and what checkpoints cost."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from facevae.benchmark.bench import Bench
from facevae.benchmark.watched_command import Moment
from facevae.config import TrainConfig
from facevae.errors import UserError
from facevae.runs import storage
from facevae.training.checkpoint_manager import CheckpointManager

SEEN = 8
"""lines of progress that a training must have shown for its figures to mean something"""


LATE_SECONDS = 1.0
"""in which what a dead worker told last still comes"""


class Trainings(NamedTuple):
    """Short trainings of one kind, each in an output folder of its own."""

    bench: Bench
    shards: str
    loss: dict[str, object]

    def config(self, checkpoint_every: int) -> TrainConfig:
        """One that keeps a checkpoint every so many steps, and tells of every step."""
        training = {"checkpoint_every": checkpoint_every, "log_every": 1}
        output = self.bench.fresh("train")
        return self.bench.train_config(self.shards, output, training=training, loss=self.loss)


def seconds_a_step(trainings: Trainings, checkpoint_every: int) -> float:
    """What a step takes, from the first that is seen to the last; a last checkpoint not counted.

    Raises:
        UserError: too few steps were seen.
    """
    config = trainings.config(checkpoint_every)
    moments = _seen(trainings.bench.run("train", config).of("train"), config)
    first, last = moments[0], moments[-1]
    return (last.seconds - first.seconds) / (last.step.done - first.step.done)


def seconds_after_a_lost_worker(trainings: Trainings, checkpoint_every: int) -> float:
    """From the death of a worker, half way, to the next step that was not trained before.

    Raises:
        UserError: the worker is not on this machine, or too few steps were seen.
    """
    config = trainings.config(checkpoint_every)
    loss = _LossOfAWorker(config.training.steps // 2)
    _seen(trainings.bench.run("train", config, loss).of("train"), config)
    return loss.seconds()


class _LossOfAWorker:
    """Kills the worker of a training at a step, and tells its lines from those of the next one."""

    def __init__(self, step: int) -> None:
        self._step, self._killed = step, 0
        self._death, self._before = 0.0, 0
        self._after: list[Moment] = []

    def __call__(self, moment: Moment, driver: psutil.Process) -> None:
        if moment.step.title != "train":
            return
        if self._after or (self._killed and self._is_of_the_next(moment, driver)):
            self._after.append(moment)
            return
        self._before = max(self._before, moment.step.done)
        if not self._killed and moment.step.done >= self._step:
            self._kill(moment, driver)

    def _is_of_the_next(self, moment: Moment, driver: psutil.Process) -> bool:
        is_late = moment.seconds - self._death > LATE_SECONDS
        return is_late and bool(_workers(driver, self._killed))

    def _kill(self, moment: Moment, driver: psutil.Process) -> None:
        looked = time.perf_counter()
        workers = _workers(driver)
        if not workers:
            raise UserError("the resume case kills a training worker, and none is on this machine")
        workers[0].kill()
        self._killed = workers[0].pid
        self._death = moment.seconds + time.perf_counter() - looked

    def seconds(self) -> float:
        for moment in self._after:
            if moment.step.done > self._before:
                return moment.seconds - self._death
        raise UserError("training ended before a worker could be killed: give more --steps")


def seconds_after_a_new_command(trainings: Trainings) -> float:
    """From the same command to its first step, after a driver died past its one checkpoint.

    Raises:
        UserError: training ended before the driver could be killed.
    """
    half = trainings.bench.config.steps // 2
    return killed_and_resumed(trainings.bench, trainings.config(half), half)


def killed_and_resumed(bench: Bench, config: TrainConfig, half: int) -> float:
    """Train, kill the driver once the checkpoint of a step is there, and give the command again.

    Returns:
        The seconds from that command to its first step.

    Raises:
        UserError: training ended before the driver could be killed.
    """
    checkpoint = CheckpointManager(config.output, config.training).uri(half)

    def kill(moment: Moment, driver: psutil.Process) -> None:
        if moment.step.title == "train" and moment.step.done > half and storage.exists(checkpoint):
            driver.kill()

    bench.run("train", config, kill)
    if storage.exists(storage.join(config.output, "result.json")):
        raise UserError("training ended before its driver could be killed: give more --steps")
    moments = bench.run("train", config).of("train")
    return next(moment.seconds for moment in moments if moment.step.done > half)


def _seen(moments: Sequence[Moment], config: TrainConfig) -> list[Moment]:
    """The lines of progress that tell of steps."""
    found = [moment for moment in moments if moment.step.done > 0]
    if len(found) < SEEN:
        raise UserError(
            f"{config.training.steps} steps passed in {len(found)} looks at them, too few to "
            "measure: give more --steps"
        )
    return found


def _workers(driver: psutil.Process, but: int = 0) -> list[psutil.Process]:
    """The processes of Ray Train on this machine that train since the driver began."""
    began = driver.create_time()
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        is_worker = "RayTrainWorker" in " ".join(process.info["cmdline"] or ())
        if is_worker and process.info["create_time"] >= began and process.pid != but:
            found.append(process)
    return found
