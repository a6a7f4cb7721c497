"""What a finished training leaves: its model, the best one, its curves, and the same in MLflow."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from facevae.config import TrainConfig
from facevae.errors import UserError
from facevae.models.checkpoint import DamagedError, export_model, load_model
from facevae.pixels import crop_and_resize
from facevae.report import plots
from facevae.report.grids import save_or_warn
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import MODEL_NAME, Run, log_model
from facevae.training.checkpoint_manager import CheckpointManager
from facevae.training.loop import Metrics

BEST = "best"
CURVES = ("loss", "kl", "reconstruction", "psnr", "images_per_second", "learning_rate")
SPLITS = ("train", "validation")


def keep_and_log_models(
    config: TrainConfig, faces: np.ndarray, run: Run, unlogged: str | None
) -> Metrics:
    """Keep the models of a training that came to its end, and log them.

    Args:
        config: the run's.
        faces: uint8 [B,D,D,3], an example of what the model takes.
        run: its record.
        unlogged: why the record lacks some metrics; none: it has all.

    Returns:
        The final metrics by name.

    Raises:
        UserError: the last checkpoint is not whole, or the record lacks metrics.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL_NAME
        history, best = _keep_models(config, folder)
        curves = save_or_warn(partial(_curves, history), storage.join(config.output, "curves.png"))
        run.tags({f"facevae.{name}": f"{step:.0f}" for name, step in best.items()})
        if unlogged is not None:
            raise UserError(unlogged)
        if curves:
            run.picture("curves.png", curves)
        run.json("history.json", history)
        model = load_model(folder)
        run.tags({"facevae.model_digest": model.card.digest})
        log_model(run, folder, _example(faces, model.vae.image_size), config.tracking.register_as)
    final = {key: value for row in history for key, value in row.items()}
    return {"steps": final.pop("step"), **final, **best}


def _keep_models(config: TrainConfig, folder: Path) -> tuple[list[Metrics], Metrics]:
    """Copy the models out of the last checkpoint and the best one.

    The last one also goes to `folder`, on this machine. Returns the history, and `best_step` if the
    best is kept.
    """
    checkpoints, last = CheckpointManager(config.output, config.training), config.training.steps
    try:
        with checkpoints.opened(last) as (checkpoint, state):
            folder.mkdir()
            export_model(checkpoint, folder)
            history = state.history
    except DamagedError as error:
        raise UserError(
            f"the last checkpoint, {checkpoints.uri(last)}, is not whole ({error}): give the same "
            "command again to train from the one before"
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
            log(f"warning: {BEST} is left out: {checkpoints.uri(best)} is not whole ({error})")
            best = None
    return history, {} if best is None else {"best_step": float(best)}


def _export(checkpoint: Path, uri: str) -> None:
    with storage.atomic_folder(uri) as folder:
        export_model(checkpoint, folder)


def _curves(history: list[Metrics]) -> Image.Image:
    return plots.loss_curves(history, [f"{s}/{t}" for t in CURVES for s in SPLITS])


def _example(stored: np.ndarray, size: int) -> np.ndarray:
    faces = [crop_and_resize(Image.fromarray(face), None, size) for face in stored]
    return np.stack([np.asarray(face) for face in faces])
