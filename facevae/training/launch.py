"""The driver's side of a training: Ray Train's workers, their progress, and the wish to stop.

One worker on a machine of its own is the driver itself (Ray Train's local mode): processes that
start Python and import torch one after the other take longer than many a training.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from facevae.config import TrainConfig
from facevae.ray_cluster.address import is_this_machine
from facevae.ray_cluster.connect import keep_freed_memory
from facevae.ray_cluster.nodes import draining_nodes
from facevae.ray_cluster.placement import WorkerPlan
from facevae.ray_cluster.this_job import submission_id
from facevae.runs import storage
from facevae.runs.progress import log, progress
from facevae.runs.stopping import stopping
from facevae.tracking import Run
from facevae.training.checkpoint_manager import FOLDER
from facevae.training.coordinator import Coordinator
from facevae.training.failures import (
    LOST_WORKERS,
    RepeatedError,
    StopAtMistakes,
    cause_of,
    failure_config,
    lasting_mistake,
)
from facevae.training.loop import Metrics

LOOK_SECONDS = 0.5
NOTES = {
    "train/loss": "loss {:.4g}",
    "validation/loss": "validation {:.4g}",
    "train/images_per_second": "{:.0f} images/s",
}
"""the metrics that are shown beside the bar"""
COLLECTIVE_SECONDS = 300
"""how long ranks wait for one that stands still, before training starts anew without it"""
STOP_SECONDS = 45.0
"""how long a run that is told to stop waits for its checkpoint; Ray kills it after 60 s"""


def _worker() -> Callable[[dict[str, Any]], None]:
    """What a worker runs. As a local function it is pickled by value, not by the name of this file.

    So Ray's controller, which hands it on, does not import what only the workers need.
    """

    def train_worker(job: dict[str, Any]) -> None:
        from facevae.training import worker

        worker.train_worker(job)

    return train_worker


train_worker = _worker()


def run_training(
    config: TrainConfig,
    plan: WorkerPlan,
    shards: str,
    run: Run,
    weights: dict[str, torch.Tensor] | None = None,
) -> str | None:
    """Run Ray Train to the last step.

    Checkpoints are the workers' own (checkpoint_manager.py): Ray's record of them would be one more
    file to trust, and a failure to write it ends a run.

    Args:
        config: what is trained, and how.
        plan: the workers.
        shards: the folder of the images.
        run: the record.
        weights: to start from; none: random ones.

    Returns:
        Why MLflow lacks some metrics; none: it has all.

    Raises:
        UserError: what the user must mend.
    """
    filesystem, path = storage.arrow_filesystem(config.output)
    # On the driver's node: on one of the workers' it would go with it.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    coordinator = ray.remote(num_cpus=0, label_selector=here)(Coordinator).remote()
    workers = plan.workers if plan.fewest == plan.workers else (plan.fewest, plan.workers)
    is_here = workers == 1 and is_this_machine()
    trainer = _Trainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "shards": shards,
            "run": tuple(run.id),
            "started": run.started,
            "submission_id": submission_id(),
            "use_gpu": plan.use_gpu,
            "threads": plan.threads,
            "readers": plan.readers,
            "reader_labels": plan.reader_labels,
            "coordinator": coordinator,
            "weights": None if weights is None else ray.put(weights),
        },
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ray.train.ScalingConfig(
            num_workers=0 if is_here else workers,  # 0 is its local mode
            use_gpu=plan.use_gpu,
            resources_per_worker=plan.resources(),
            label_selector=plan.worker_labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=failure_config(plan),
            callbacks=[StopAtMistakes()],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with (
        stopping(partial(_keep_a_checkpoint, coordinator)),
        _shown_progress(coordinator, config.training.steps),
    ):
        if is_here:
            _fit_here(trainer)
        else:
            try:
                trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise cause_of(error) from error
    unlogged: str | None = ray.get(coordinator.unlogged.remote())
    return unlogged


def _fit_here(trainer: TorchTrainer) -> None:
    """Train in this process, and go on after what Ray Train would start new workers after."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    try:
        for remaining in reversed(range(LOST_WORKERS + 1)):
            try:
                trainer.fit()
                return
            except RepeatedError:
                raise
            except Exception as error:
                mistake = lasting_mistake(error)
                if mistake is not None:
                    raise mistake from error
                if not remaining:
                    raise cause_of(error) from error
                reason = f"{type(error).__name__}: {error}"
                log(f"train: goes on from the last checkpoint after {reason}")
    finally:
        torch.set_num_threads(threads)


class _Trainer(TorchTrainer):  # type: ignore[misc]  # ray is not annotated
    """Ray's, without its handler of Ctrl-C, which it would leave behind, and ends with code 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _keep_a_checkpoint(coordinator: Any) -> None:
    """Have the workers keep a checkpoint, if there is one to keep, and wait for it."""
    if not ray.get(coordinator.stop.remote()):
        return
    log("train: told to stop; a checkpoint is kept first")
    kept, ends = None, time.monotonic() + STOP_SECONDS
    while kept is None and ray.get(coordinator.stop.remote()) and time.monotonic() < ends:
        time.sleep(0.05)
        kept = ray.get(coordinator.last_step.remote())
    if kept is not None:
        log(f"train: the checkpoint of step {kept} is kept")


@contextmanager
def _shown_progress(coordinator: Any, steps: int) -> Iterator[None]:
    """A block during which the newest step is shown, and the notices of nodes are passed on."""
    finished, seen = threading.Event(), set[str]()
    with progress("train", steps, "steps") as bar:

        def watch() -> None:
            is_last = False
            while not is_last:
                is_last = finished.wait(LOOK_SECONDS)
                draining = draining_nodes() - seen
                if draining:
                    seen.update(draining)
                    coordinator.save.remote()
                    log("train: a node has been told to go; a checkpoint is kept now")
                step, metrics, lines = ray.get(coordinator.read.remote())
                for line in lines:
                    log(line)
                if metrics:
                    bar(step, _note(metrics))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _note(metrics: Metrics) -> str:
    return "  ".join(form.format(metrics[name]) for name, form in NOTES.items() if name in metrics)
