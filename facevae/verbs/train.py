"""`train`: shards to a trained VAE."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from PIL import Image
from ray.train.torch import TorchTrainer

from facevae import figures, runtime, storage
from facevae.checkpoint import CARD, WEIGHTS, load_model, load_training, read_card
from facevae.config import ShardsConfig, TrainConfig
from facevae.data.batches import spread_images
from facevae.data.shards import Manifest, read_manifest
from facevae.errors import UserError
from facevae.models.perceptual import check_perceptual_network
from facevae.models.perceptual_weights import perceptual_weights_digest
from facevae.pixels import crop_and_resize
from facevae.progress import progress, say
from facevae.tracking import MODEL_NAME, SHARDS_RUN_TAG, Run, log_model, start_run, store_uri
from facevae.training.loop import Metrics
from facevae.training.resources import WorkerPlan, plan_workers
from facevae.training.worker import ProgressBoard, train_worker
from facevae.verbs.shards import shard_faces

CHECKPOINTS = "checkpoints"
CURVES = ("loss", "kl", "reconstruction", "psnr", "images_per_second", "learning_rate")
SPLITS = ("train", "validation")


def train_model(config: TrainConfig) -> dict[str, float]:
    """Train a VAE, or go on with it, or find it trained.

    The model lands in `<output>/model`, pictures and `result.json` beside it.

    Returns:
        The final metrics by name.

    Raises:
        UserError: settings, data or cluster do not allow it; found before training where it can
            be. Or a loss that is not finite.
    """
    output = storage.absolute(config.output)
    config = config.model_copy(update={"output": output})
    result = storage.join(output, "result.json")
    if config.loss.reconstruction == "perceptual":
        check_perceptual_network(config.loss)
    storage.make_folder(output)
    _claim(output, config)
    if storage.exists(result):
        say(f"already done: {output}")
        return dict(storage.read_json(result))
    runtime.connect()
    plan = plan_workers(config.scaling, runtime.nodes())
    if config.training.sync_batch_norm and not plan.use_gpu:
        raise UserError(
            "training.sync_batch_norm needs GPU workers, torch has no version for CPU: leave it "
            "out, or give GPUs"
        )
    shards = _shards(config)
    manifest = read_manifest(shards)
    _check_data(config, shards, manifest)
    judge = {}
    if config.loss.reconstruction == "perceptual":
        judge = {"facevae.perceptual_weights": perceptual_weights_digest(config.loss)}
    with start_run(config.tracking, "train", output, config.model_dump(mode="json")) as run:
        run.dataset(Path(shards).name, manifest.digest, "training")
        run.tags({SHARDS_RUN_TAG: manifest.run_id or "", **judge})
        checkpoint, lost = _fit(config, plan, shards, run)
        history = _keep_model(config, checkpoint)
        if lost is not None:
            raise UserError(lost)
        metrics = _publish(config, shards, manifest, history, run)
    storage.write_json(result, metrics)
    return metrics


def _claim(output: str, config: TrainConfig) -> None:
    """Mark the folder as this configuration's, or refuse it as another's."""
    uri, mine = storage.join(output, "config.json"), _lasting(config)
    if not storage.exists(uri):
        storage.write_json(uri, mine)
        return
    theirs = storage.read_json(uri)
    for section, values in mine.items():
        if theirs.get(section) == values:
            continue
        keys = (
            [k for k in values if values[k] != (theirs.get(section) or {}).get(k)]
            if isinstance(values, dict)
            else []
        )
        name = f"{section}.{keys[0]}" if keys else section
        raise UserError(
            f"{output} holds a run with another {name}; choose another --output to start afresh, "
            "or repeat the old settings to go on"
        )


def _lasting(config: TrainConfig) -> dict[str, Any]:
    """The settings that may not change when a run goes on."""
    return config.model_dump(mode="json", exclude={"output", "tracking", "scaling"})


def _shards(config: TrainConfig) -> str:
    """The folder of shards, made from the source first where none is given."""
    if config.shards is not None:
        return storage.absolute(config.shards)
    folder = storage.join(config.output, "shards")
    source = {name: getattr(config, name) for name in ShardsConfig.model_fields if name != "output"}
    source["tracking"] = config.tracking.model_copy(
        update={"uri": store_uri(config.tracking, config.output), "run_name": None}
    )
    shard_faces(ShardsConfig(output=folder, **source))
    return folder


def _check_data(config: TrainConfig, shards: str, manifest: Manifest) -> None:
    for split in ("train", "val"):
        if manifest.rows(split) == 0:
            raise UserError(
                f"{shards} has no images in its '{split}' split: give more images, or a --partition"
            )


def _fit(config: TrainConfig, plan: WorkerPlan, shards: str, run: Run) -> tuple[Path, str | None]:
    """Run Ray Train; returns the newest checkpoint's folder, and why MLflow lacks some metrics."""
    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "shards": shards,
            "run": tuple(run.id),
            "started": run.started,
            "threads": plan.threads,
            "readers": plan.readers,
            "progress": board,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.use_gpu,
            resources_per_worker=plan.resources(),
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=config.output,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.training.checkpoints_kept
            ),
            failure_config=ray.train.FailureConfig(controller_failure_limit=3),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with _shown_progress(board, config.training.steps):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            remove_unfinished(Path(config.output) / CHECKPOINTS)
            raise _cause(error) from error
    assert result.checkpoint is not None, "the last step saves a checkpoint"
    return Path(result.checkpoint.path), ray.get(board.lost.remote())


def remove_unfinished(checkpoints: Path) -> None:
    """Remove the checkpoints whose upload broke off: those that Ray's record does not list."""
    record = checkpoints / "checkpoint_manager_snapshot.json"
    finished = set()
    if record.is_file():
        results = storage.read_json(str(record))["checkpoint_results"]
        finished = {result["checkpoint_dir_name"] for result in results}
    for folder in checkpoints.glob("step_*"):
        if folder.name not in finished:
            shutil.rmtree(folder)


def _cause(error: Exception) -> Exception:
    """The worker's own exception if it is one that the user can mend, else Ray's."""
    for failure in getattr(error, "worker_failures", {}).values():
        for exception in (failure, failure.__cause__):
            if isinstance(exception, UserError):
                return UserError(str(exception))
            if isinstance(exception, OSError) and exception.errno in storage.WRITE_ERRORS:
                reason = storage.WRITE_ERRORS[exception.errno]
                return UserError(f"cannot write a checkpoint: {reason}")
    return error


@contextmanager
def _shown_progress(board: Any, steps: int) -> Iterator[None]:
    finished = threading.Event()
    with progress("train", steps, "steps") as bar:

        def look() -> None:
            step, metrics, lines = ray.get(board.read.remote())
            for line in lines:
                say(line)
            if metrics:
                bar(step, _note(metrics))

        def watch() -> None:
            while not finished.wait(0.5):
                look()
            look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _note(metrics: Metrics) -> str:
    parts = [f"loss {metrics['train/loss']:.4g}"] if "train/loss" in metrics else []
    if "validation/loss" in metrics:
        parts.append(f"validation {metrics['validation/loss']:.4g}")
    if "train/images_per_second" in metrics:
        parts.append(f"{metrics['train/images_per_second']:.0f} images/s")
    return "  ".join(parts)


def _keep_model(config: TrainConfig, checkpoint: Path) -> list[Metrics]:
    """Copy the model out of the newest checkpoint, draw the curves; returns the history."""
    history = load_training(checkpoint).history
    with storage.atomic_folder(storage.join(config.output, MODEL_NAME)) as copy:
        for name in (WEIGHTS, CARD):
            shutil.copy(checkpoint / name, copy / name)
    figures.save_png(_curves(history), storage.join(config.output, "curves.png"))
    return history


def _curves(history: list[Metrics]) -> Image.Image:
    return figures.loss_curves(history, [f"{s}/{t}" for t in CURVES for s in SPLITS])


def _publish(
    config: TrainConfig, shards: str, manifest: Manifest, history: list[Metrics], run: Run
) -> Metrics:
    """Log the curves and the model."""
    folder = storage.join(config.output, MODEL_NAME)
    run.picture("curves.png", _curves(history))
    run.json("history.json", history)
    size = load_model(Path(folder)).vae.image_size
    faces = spread_images(shards, manifest, "val", 2)
    example = [np.asarray(crop_and_resize(Image.fromarray(face), None, size)) for face in faces]
    run.tags({"facevae.model_digest": read_card(Path(folder)).digest})
    log_model(run, Path(folder), np.stack(example), config.tracking.register_as)
    final = {key: value for row in history for key, value in row.items()}
    return {"steps": final.pop("step"), **final}
