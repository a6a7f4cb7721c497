"""`train`: shards to a trained VAE."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
from PIL import Image
from ray.train.torch import TorchTrainer

from facevae import figures, pictures, runtime, storage
from facevae.checkpoint import DamagedError, export_model, load_model
from facevae.config import ShardsConfig, TrainConfig
from facevae.data.order import spread_images
from facevae.data.shards import Manifest, read_manifest
from facevae.errors import UserError
from facevae.lock import run_lock
from facevae.models.perceptual import check_perceptual_network
from facevae.models.perceptual_weights import perceptual_weights_digest
from facevae.pixels import crop_and_resize
from facevae.progress import progress, say
from facevae.ray_job import submission_id
from facevae.tracking import MODEL_NAME, SHARDS_RUN_TAG, Run, log_model, start_run, store_uri
from facevae.training.board import ProgressBoard
from facevae.training.checkpoints import FOLDER, Checkpoints
from facevae.training.failures import StopAtMistakes, cause_of, failure_config
from facevae.training.loop import Metrics
from facevae.training.resources import WorkerPlan, plan_workers
from facevae.training.worker import train_worker
from facevae.verbs.places import check_places, places_of
from facevae.verbs.precision import choose_precision
from facevae.verbs.shards import shard_faces
from facevae.verbs.stopping import stopping

BEST = "best"
CURVES = ("loss", "kl", "reconstruction", "psnr", "images_per_second", "learning_rate")
SPLITS = ("train", "validation")
CLAIM = "config.json"
KEEPING = {"checkpoints_kept", "keep_best", "failed_checkpoints_allowed"}
"""what may change when a run goes on, since the result does not depend on it"""
STOP_SECONDS = 45.0
"""how long a run that is told to stop waits for its checkpoint; Ray kills it after 60 s"""


class Data(NamedTuple):
    """What is trained on: a folder of shards, and its manifest."""

    shards: str
    manifest: Manifest


def train_model(config: TrainConfig) -> dict[str, float]:
    """Train a VAE, or go on with it, or find it trained.

    The model lands in `<output>/model`, pictures and `result.json` beside it.

    Returns:
        The final metrics by name.

    Raises:
        UserError: settings, data or cluster do not allow it; found before training where it can
            be. Or a loss that is not finite, or another driver at work on the output.
    """
    output = storage.absolute(config.output)
    config = config.model_copy(update={"output": output})
    result = storage.join(output, "result.json")
    if config.loss.reconstruction == "perceptual":
        check_perceptual_network(config.loss)
    if storage.exists(result):
        _check_claim(output, config)
        say(f"already done: {output}")
        return dict(storage.read_json(result))
    given = None if config.shards is None else _checked(storage.absolute(config.shards))
    storage.make_folder(output)
    with run_lock(output, "facevae train", submission_id()):
        _check_claim(output, config)
        metrics = _train(config, output, given)
        storage.write_json(result, metrics)
    return metrics


def _train(config: TrainConfig, output: str, given: Data | None) -> dict[str, float]:
    runtime.connect()
    nodes = runtime.nodes()
    check_places(places_of(config), len(nodes))
    plan = plan_workers(config.scaling, nodes)
    shards, manifest = given or _checked(_make_shards(config))
    judge = {}
    if config.loss.reconstruction == "perceptual":
        judge = {"facevae.perceptual_weights": perceptual_weights_digest(config.loss)}
    config = _with_precision(config, plan, nodes)
    _claim(output, config)  # not before: what was wrong up to here is mended with other settings
    with start_run(
        config.tracking,
        "train",
        output,
        config.model_dump(mode="json"),
        submission_id=submission_id(),
    ) as run:
        run.dataset(shards.rpartition("/")[2], manifest.digest, "training")
        run.tags({SHARDS_RUN_TAG: manifest.run_id or "", **judge})
        lost = _fit(config, plan, shards, run)
        return _finish(config, spread_images(shards, manifest, "val", 2), run, lost)


def _with_precision(
    config: TrainConfig, plan: WorkerPlan, nodes: list[runtime.Node]
) -> TrainConfig:
    """The configuration with the precision that the run began with, or one chosen for it now."""
    uri, training = storage.join(config.output, CLAIM), config.training
    claimed = storage.read_json(uri)["training"] if storage.exists(uri) else {}
    precision = choose_precision(
        "training.precision",
        training.precision,
        claimed.get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.worker_labels,
    )
    training = training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training})


def _claim(output: str, config: TrainConfig) -> None:
    """Mark the folder as this configuration's."""
    storage.write_json(storage.join(output, CLAIM), _lasting(config))


def _check_claim(output: str, config: TrainConfig) -> None:
    """Refuse a folder that is another configuration's; precision auto is whatever it has."""
    uri, mine = storage.join(output, CLAIM), _lasting(config)
    if config.training.precision == "auto":
        mine["training"].pop("precision")
    theirs = storage.read_json(uri) if storage.exists(uri) else mine
    for section, values in mine.items():
        if theirs.get(section) == values:
            continue
        name = section
        if isinstance(values, dict):
            keys = [k for k in values if values[k] != (theirs.get(section) or {}).get(k)]
            if not keys:
                continue
            name = f"{section}.{keys[0]}"
        raise UserError(
            f"{output} holds a run with another {name}; choose another --output to start afresh, "
            "or repeat the old settings to go on"
        )


def _lasting(config: TrainConfig) -> dict[str, Any]:
    """The settings that may not change when a run goes on."""
    whole = {"output": True, "tracking": True, "scaling": True}
    parts = {"training": KEEPING, "sharding": {"max_bad_fraction", "tries"}}
    return config.model_dump(mode="json", exclude={**whole, **parts})


def _make_shards(config: TrainConfig) -> str:
    """Make shards of the source, in the output folder; returns theirs."""
    folder = storage.join(config.output, "shards")
    source = {name: getattr(config, name) for name in ShardsConfig.model_fields if name != "output"}
    source["tracking"] = config.tracking.model_copy(
        update={"uri": store_uri(config.tracking, config.output), "run_name": None}
    )
    shard_faces(ShardsConfig(output=folder, **source))
    return folder


def _checked(shards: str) -> Data:
    """A folder of shards that can be trained on, and its manifest."""
    manifest = read_manifest(shards)
    for split in ("train", "val"):
        if manifest.rows(split) == 0:
            raise UserError(
                f"{shards} has no images in its '{split}' split: give more images, or a --partition"
            )
    return Data(shards, manifest)


def _fit(config: TrainConfig, plan: WorkerPlan, shards: str, run: Run) -> str | None:
    """Run Ray Train; returns why MLflow lacks some metrics.

    Checkpoints are the workers' own (training/checkpoints.py): Ray's record of them would be one
    more file to trust, and a failure to write it ends a run.
    """
    filesystem, path = storage.arrow_filesystem(config.output)
    # On the driver's node: on one of the workers' it would go with it.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    board = ray.remote(num_cpus=0, label_selector=here)(ProgressBoard).remote()
    trainer = _Trainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "shards": shards,
            "run": tuple(run.id),
            "started": run.started,
            "submission_id": submission_id(),
            "threads": plan.threads,
            "readers": plan.readers,
            "reader_labels": plan.reader_labels,
            "progress": board,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=_count(plan),
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
        stopping(partial(_keep_a_checkpoint, board)),
        _shown_progress(board, config.training.steps),
    ):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise cause_of(error) from error
    lost: str | None = ray.get(board.lost.remote())
    return lost


class _Trainer(TorchTrainer):  # type: ignore[misc]  # ray is not annotated
    """Ray's, without its handler of Ctrl-C, which it would leave behind, and ends with code 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _keep_a_checkpoint(board: Any) -> None:
    """Have the workers keep a checkpoint, if there are any, and wait for it."""
    if not ray.get(board.stop.remote()):
        return
    say("train: told to stop; a checkpoint is kept first")
    kept, ends = None, time.monotonic() + STOP_SECONDS
    while kept is None and time.monotonic() < ends:
        time.sleep(0.05)
        kept = ray.get(board.last_step.remote())
    if kept is not None:
        say(f"train: the checkpoint of step {kept} is kept")


def _count(plan: WorkerPlan) -> int | tuple[int, int]:
    return plan.workers if plan.fewest == plan.workers else (plan.fewest, plan.workers)


@contextmanager
def _shown_progress(board: Any, steps: int) -> Iterator[None]:
    finished = threading.Event()
    with progress("train", steps, "steps") as bar:
        seen: set[str] = set()

        def look() -> None:
            to_go = runtime.nodes_to_go() - seen
            if to_go:
                seen.update(to_go)
                board.save.remote()
                say("train: a node has been told to go; a checkpoint is kept now")
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


def _finish(config: TrainConfig, faces: np.ndarray, run: Run, lost: str | None) -> Metrics:
    """Keep the models of a training that came to its end, and log them.

    Args:
        config: the run's.
        faces: uint8 [B,D,D,3], an example of what the model takes.
        run: its record.
        lost: why the record lacks some metrics; none: it has all.

    Returns:
        The final metrics by name.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL_NAME
        history, best = _keep_models(config, folder)
        run.tags({f"facevae.{name}": f"{step:.0f}" for name, step in best.items()})
        if lost is not None:
            raise UserError(lost)
        return _publish(config, folder, faces, history, run) | best


def _keep_models(config: TrainConfig, folder: Path) -> tuple[list[Metrics], Metrics]:
    """Copy the models out of the last checkpoint and the best one, and draw the curves.

    Args:
        config: the run's.
        folder: a local place for the model, beside that in the output folder.

    Returns:
        The history, and `best_step` if the best is kept.
    """
    checkpoints = Checkpoints(config.output, config.training)
    last = config.training.steps
    try:
        with checkpoints.opened(last) as (checkpoint, state):
            folder.mkdir()
            export_model(checkpoint, folder)
            history = state.history
    except DamagedError as error:
        raise UserError(
            f"the last checkpoint, {checkpoints.place(last)}, is not whole ({error}): give the "
            "same command again to train from the one before"
        ) from error
    _export(folder, storage.join(config.output, MODEL_NAME))
    best = checkpoints.best(history) if config.training.keep_best else None
    if best == last:
        _export(folder, storage.join(config.output, BEST))
    elif best is not None:
        try:
            with checkpoints.opened(best) as (checkpoint, _):
                _export(checkpoint, storage.join(config.output, BEST))
        except DamagedError as error:
            say(f"warning: {BEST} is left out: {checkpoints.place(best)} is not whole ({error})")
            best = None
    pictures.save_png(_curves(history), storage.join(config.output, "curves.png"))
    return history, {} if best is None else {"best_step": float(best)}


def _export(checkpoint: Path, place: str) -> None:
    with storage.atomic_folder(place) as folder:
        export_model(checkpoint, folder)


def _curves(history: list[Metrics]) -> Image.Image:
    return figures.loss_curves(history, [f"{s}/{t}" for t in CURVES for s in SPLITS])


def _publish(
    config: TrainConfig, folder: Path, faces: np.ndarray, history: list[Metrics], run: Run
) -> Metrics:
    """Log the curves and the model of a folder, with faces as its example."""
    run.picture("curves.png", _curves(history))
    run.json("history.json", history)
    model = load_model(folder)
    run.tags({"facevae.model_digest": model.card.digest})
    log_model(run, folder, _example(faces, model.vae.image_size), config.tracking.register_as)
    final = {key: value for row in history for key, value in row.items()}
    return {"steps": final.pop("step"), **final}


def _example(stored: np.ndarray, size: int) -> np.ndarray:
    faces = [crop_and_resize(Image.fromarray(face), None, size) for face in stored]
    return np.stack([np.asarray(face) for face in faces])
