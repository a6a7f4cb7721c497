"""What each Ray Train worker runs: the training loop over its share of the batches."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from facevae.config import TrainConfig, TrainingConfig
from facevae.data.batches import TrainingBatches, training_batches
from facevae.data.order import RankRows, epoch_plan, spread_images
from facevae.data.shard_files import Manifest, read_manifest
from facevae.errors import UNREADABLE, UserError
from facevae.models import VAE
from facevae.models.checkpoint import ModelCard, TrainingState, on_host, save_training
from facevae.report import grids
from facevae.runs import storage
from facevae.tracking import NODES_TAG, Run, RunId
from facevae.training.build import DATA_PARALLEL, build_trainer
from facevae.training.checkpoint_manager import CheckpointManager
from facevae.training.failures import ending_at_repeated_errors
from facevae.training.loop import WORKERS, Metrics, train
from facevae.training.step import Rank, Trainer

LOOKING_SECONDS = 0.2
"""between two looks at what the driver requests"""
ENDING_SECONDS = 30.0
"""in which a driver that was told to stop ends, and its workers with it"""


def train_worker(job: dict[str, Any]) -> None:
    """Train on this worker until the last step, from the newest checkpoint if there is one.

    Args:
        job: `config` (a TrainConfig as JSON), `shards` (folder), `run` (RunId as a tuple),
            `started` (when the run began), `submission_id` (of the Ray job, or none), `use_gpu`,
            `threads`, `readers`, `reader_labels`, `coordinator` (a Coordinator actor), and
            `weights` (to start from, in Ray's object store; none: random ones).
    """
    torch.set_num_threads(job["threads"])
    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    with ending_at_repeated_errors(job["coordinator"], rank.rank):
        _train(job, rank)


def _train(job: dict[str, Any], rank: Rank) -> None:
    config = TrainConfig.model_validate(job["config"])
    manifest = read_manifest(job["shards"])
    device = ray.train.torch.get_device() if job["use_gpu"] else torch.device("cpu")
    checkpoints = CheckpointManager(config.output, config.training, job["coordinator"].log.remote)
    state = _newest(checkpoints, rank)
    done, history, sums = (state.step, state.history, state.sums) if state else (0, [], [])
    with contextlib.ExitStack() as stack:
        batches = None
        if done < config.training.steps:
            found = _batches(done, config.training, manifest, rank, device, job)
            batches = stack.enter_context(contextlib.closing(found))
        trainer = build_trainer(config, device, rank, _parallel if rank.world_size > 1 else None)
        if state is not None:
            trainer.restore(state)
        elif job["weights"] is not None:
            trainer.start_from(ray.get(job["weights"]))
        addresses = _addresses(rank)
        callbacks = _WorkerCallbacks(trainer, checkpoints, config, manifest, job, history)
        if rank.rank == 0:
            stack.enter_context(callbacks.attached(done, addresses))
        if batches is not None:
            images = config.training.validation_images
            held_out = spread_images(job["shards"], manifest, "val", images)
            pixels = (batch.pixels for batch in batches)
            train(trainer, pixels, held_out, done + 1, callbacks, sums)


def _batches(
    done: int,
    config: TrainingConfig,
    manifest: Manifest,
    rank: Rank,
    device: torch.device,
    job: dict[str, Any],
) -> TrainingBatches:
    """The batches after the steps that are done; its readers start now, beside what comes next."""
    size = config.global_batch_size
    rank_rows = RankRows(*rank, size, done * size, config.steps * size)
    plan = epoch_plan(manifest, "train", config.seed)
    return training_batches(
        job["shards"], plan, rank_rows, device, job["readers"], job["reader_labels"]
    )


def _addresses(rank: Rank) -> list[str]:
    """The node of every rank, in order."""
    addresses = [ray.util.get_node_ip_address()] * rank.world_size
    if dist.is_initialized():
        dist.all_gather_object(addresses, addresses[rank.rank])
    return addresses


def _parallel(vae: VAE) -> nn.Module:
    wrapped: nn.Module = ray.train.torch.prepare_model(vae, parallel_strategy_kwargs=DATA_PARALLEL)
    return wrapped


def _newest(checkpoints: CheckpointManager, rank: Rank) -> TrainingState | None:
    """The state of the newest whole checkpoint, if there is one: the one that rank 0 finds."""
    state: TrainingState | None = None
    found: list[Any] = [None, None]  # its step, or the mistake that rank 0 found instead
    if rank.rank == 0:
        try:
            checkpoints.remove_partial_writes()
            state = checkpoints.newest()
            found[0] = state and state.step
        except UserError as error:
            found[1] = error
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    step, mistake = found
    if mistake is not None:
        raise mistake
    if step is None:
        return None
    return state or checkpoints.load(step)


class _Requests:
    """What the driver asks of the training, looked up in the background so that no step waits."""

    def __init__(self, coordinator: Any, has_unsaved_steps: Callable[[], bool]) -> None:
        self._coordinator, self._has_unsaved_steps = coordinator, has_unsaved_steps
        self.stop, self._saves = ray.get(coordinator.requests.remote(False))
        self._saved = self._saves
        self._is_closed = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver has gone
            while not self._is_closed.wait(LOOKING_SECONDS):
                looked = self._coordinator.requests.remote(self._has_unsaved_steps())
                self.stop, self._saves = ray.get(looked)

    def close(self) -> None:
        self._is_closed.set()
        self._looking.join()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._coordinator.requests.remote(False))  # nothing is to be waited for

    def take_save_request(self) -> bool:
        """Whether a checkpoint is asked for that was not when this was called last."""
        before, self._saved = self._saved, self._saves
        return bool(self.stop or self._saved > before)


class _WorkerCallbacks:
    """Rank 0 sends what the loop reports to MLflow, the checkpoints and the driver's progress bar.

    On other ranks nothing calls it.
    """

    _run: Run
    _requests: _Requests

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: CheckpointManager,
        config: TrainConfig,
        manifest: Manifest,
        job: dict[str, Any],
        history: list[Metrics],
    ) -> None:
        self._trainer, self._checkpoints, self._config = trainer, checkpoints, config
        self._manifest, self._history = manifest, history
        self._job, self._coordinator = job, job["coordinator"]
        self._has_new_steps = False

    @contextlib.contextmanager
    def attached(self, done: int, addresses: list[str]) -> Iterator[None]:
        """A block in which driver and run hear of the training, at whose end all has arrived.

        An error leaves nothing at work: the next attempt may be made in this process.
        """
        self._requests = _Requests(self._coordinator, self._has_unsaved_steps)
        self._run = Run(
            RunId(*self._job["run"]),
            self._config.tracking,
            self._config.output,
            started=self._job["started"],
            log=self._coordinator.log.remote,
        )
        try:
            self._catch_up(done, addresses)
            yield
            self._finish()
        except Exception:
            self._checkpoints.close()
            raise
        finally:
            self._requests.close()
            self._run.close()

    def _catch_up(self, done: int, addresses: list[str]) -> None:
        """Deliver what the run lacks of the steps done."""
        for row in self._history:
            metrics = dict(row)
            self._run.metrics(int(metrics.pop("step")), metrics)
        every, last = self._config.training.grid_every, self._config.training.steps
        for step in range(1, done + 1):
            if step % every == 0 or step == last:
                self._run.image("reconstructions", step, partial(self._stored_grid, step))
        if done < last:
            self._run.tags({NODES_TAG: ", ".join(addresses)})
            self._run.mark_start(done + 1)
            now = float(len(addresses))
            before = next((row[WORKERS] for row in reversed(self._history) if WORKERS in row), now)
            if now != before:
                self._coordinator.log.remote(
                    f"train: workers {before:.0f} -> {now:.0f} from step {done + 1} on; the global "
                    "batch and the learning rate stay"
                )

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.metrics(step, metrics)
        self._history.append({"step": step, **metrics})
        self._coordinator.show.remote(step, metrics)

    def warn(self, line: str) -> None:
        self._coordinator.log.remote(line)

    def show(self, step: int, originals: np.ndarray, reconstructions: np.ndarray) -> None:
        grid = grids.reconstruction_grid(originals, reconstructions)
        try:
            grids.save_png(grid, self._grid(step))
        except (UserError, OSError) as error:  # a picture is no reason to stop
            self._coordinator.log.remote(f"warning: the grid of step {step} is missing ({error})")
        # From the file when its turn comes, since many may have to wait for the server.
        self._run.image("reconstructions", step, partial(self._stored_grid, step))

    def _grid(self, step: int) -> str:
        return storage.join(self._config.output, "grids", f"step_{step:06d}.png")

    def _stored_grid(self, step: int) -> np.ndarray | None:
        try:
            return grids.read_png(self._grid(step))
        except UserError:
            raise
        except UNREADABLE as error:  # a picture is no reason to stop, nor to keep all else back
            reason = " ".join(str(error).split())
            self._coordinator.log.remote(f"warning: the grid of step {step} is damaged ({reason})")
            return None

    def _has_unsaved_steps(self) -> bool:
        return self._has_new_steps or self._checkpoints.is_writing

    def wants_checkpoint(self) -> bool:
        self._has_new_steps = True
        self._checkpoints.check()
        return self._requests.take_save_request()

    def save(self, step: int, sums: list[list[float]]) -> None:
        # A copy, for the next steps go on while it is written.
        state = on_host(self._trainer.state(step, [*self._history], sums))
        card = ModelCard(
            self._config.model,
            step,
            self._manifest.digest,
            self._run.id.run_id,
            alignment=self._manifest.alignment,
        )
        config, submission_id = self._config.model_dump(mode="json"), self._job["submission_id"]

        def write(folder: Path) -> None:
            save_training(folder, state, card, config, submission_id)

        self._checkpoints.save(step, state.history, write)
        if self._requests.stop:
            self._checkpoints.finish()
            ray.get(self._coordinator.stopped.remote(step))
            time.sleep(ENDING_SECONDS)
            raise UserError(f"training was stopped after step {step}")
        self._has_new_steps = False

    def _finish(self) -> None:
        """Wait until all has arrived; the driver is told if not, for the training is done."""
        self._checkpoints.finish()
        try:
            self._run.flush()
        except UserError as error:
            ray.get(self._coordinator.give_up_logging.remote(str(error)))
