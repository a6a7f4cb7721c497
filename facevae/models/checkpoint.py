"""Checkpoints: a model folder that anyone may load, and the training state beside it.

A model folder holds `model.safetensors` and `model.json`; a training checkpoint is one with
`training.safetensors` (the weights in training, where the model has their average),
`optimizer.pt` and `training.json` added. The last is written last: it holds the digests of all the
others, and its own. Nothing in them is unpickled without `weights_only`.
"""

import io
import json
import pickle
import shutil
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils._pytree import tree_map_only

from facevae import pixels
from facevae.config import ModelConfig
from facevae.errors import UserError
from facevae.models import VAE, build_vae
from facevae.runs import storage

WEIGHTS, CARD = "model.safetensors", "model.json"
TRAINING_WEIGHTS, OPTIMIZER, TRAINING = "training.safetensors", "optimizer.pt", "training.json"
MODEL_FILES = (CARD, WEIGHTS)
FILES = (TRAINING, OPTIMIZER, TRAINING_WEIGHTS, *MODEL_FILES)
"""of a training checkpoint, in the order to remove them in: without the first it is none"""


class DamagedError(UserError):
    """A checkpoint is not what was written: cut short, changed, or without one of its files."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where it came from."""

    model: ModelConfig
    step: int
    shards_digest: str
    run_id: str
    digest: str = ""
    """SHA-256 of the weights file; other artifacts name the model by it."""
    alignment: dict[str, Any] = field(default_factory=dict)
    """how a photograph is cut as the training images were: see `Manifest.alignment`"""


class LoadedModel(NamedTuple):
    """A trained VAE in eval mode, and its card."""

    vae: VAE
    card: ModelCard


def save_model(folder: Path, weights: dict[str, torch.Tensor], card: ModelCard) -> ModelCard:
    """Write a model folder.

    Returns:
        The card, with the digest of the weights.
    """
    _save_tensors(weights, folder / WEIGHTS)
    card = replace(card, digest=storage.file_digest(folder / WEIGHTS))
    value = {
        **asdict(card),
        "model": card.model.model_dump(mode="json"),
        "pixel_mean": pixels.PIXEL_MEAN,
        "pixel_std": pixels.PIXEL_STD,
    }
    (folder / CARD).write_text(json.dumps(value, indent=1) + "\n")
    return card


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder.

    Raises:
        UserError: the folder holds no model, or its card is damaged.
    """
    if not (folder / CARD).is_file():
        raise UserError(f"no model in {folder}: expected {CARD} and {WEIGHTS} there")
    value = storage.read_json(str(folder / CARD))
    try:
        mean, std = tuple(value.pop("pixel_mean")), tuple(value.pop("pixel_std"))
        card = ModelCard(**{**value, "model": ModelConfig(**value["model"])})
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder / CARD} is not a model card of this program ({reason})"
        ) from error
    if (mean, std) != (pixels.PIXEL_MEAN, pixels.PIXEL_STD):
        raise UserError(
            f"{folder / CARD} has another pixel normalisation than this program: {mean}"
        )
    return card


def load_model(folder: Path) -> LoadedModel:
    """The model of a folder, verified by its digest.

    Raises:
        UserError: no model there, damaged weights, or weights of another architecture.
    """
    card = read_card(folder)
    vae = build_vae(card.model)
    weights = _load_tensors(folder / WEIGHTS)
    _verify(folder / WEIGHTS, card.digest)
    _load_weights(vae, weights, folder / WEIGHTS)
    return LoadedModel(vae.eval(), card)


def check_fits(card: ModelCard, config: ModelConfig, named: str) -> None:
    """Check that the weights of a model are those of a VAE of this configuration.

    Args:
        card: of the model.
        config: the VAE.
        named: the option that names the model, with its value.

    Raises:
        UserError: the model is of another architecture, form or latent size.
    """
    for name in ("name", "form", "latent_size", "smooth_output"):
        theirs, ours = getattr(card.model, name), getattr(config, name)
        if theirs != ours:
            raise UserError(
                f"{named} is a model of model.{name} {theirs}, and the training's is {ours}: give "
                f"--model.{name} {theirs}, or another model"
            )


def export_model(checkpoint: Path, folder: Path) -> None:
    """Copy the model of a checkpoint into an empty folder, without what only training needs."""
    for name in (WEIGHTS, CARD):
        shutil.copy(checkpoint / name, folder / name)


class TrainingState(NamedTuple):
    """All that the next step depends on, beside the configuration.

    Image order, latent noise and mirroring are functions of the seed and the step, so the step is
    the data cursor and the state of every random generator at once.
    """

    step: int
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor] | None
    optimizer: dict[str, Any]
    history: list[dict[str, float | int]]
    sums: list[list[float]] = []  # noqa: RUF012  (never changed)
    """each rank's sums of loss terms since the last logged step"""


def on_host(state: TrainingState) -> TrainingState:
    """A copy of a state in host memory, which further training does not change."""
    return TrainingState(*tree_map_only(torch.Tensor, _copied, tuple(state)))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def save_training(
    folder: Path,
    state: TrainingState,
    card: ModelCard,
    config: Any,
    submission_id: str | None = None,
) -> None:
    """Write a training checkpoint: a model folder that training can go on from.

    Args:
        folder: an empty folder.
        state: what to go on from; the model is its average if it has one.
        card: the model's card.
        config: the resolved configuration, JSON-able.
        submission_id: the Ray job that wrote it; none: none.
    """
    save_model(folder, state.average or state.weights, card)
    if state.average is not None:
        _save_tensors(state.weights, folder / TRAINING_WEIGHTS)
    # Not straight to the file: what torch raises where the disk is full does not say so.
    buffer = io.BytesIO()
    torch.save(state.optimizer, buffer)
    (folder / OPTIMIZER).write_bytes(buffer.getbuffer())
    beside = [folder / name for name in (WEIGHTS, CARD, TRAINING_WEIGHTS, OPTIMIZER)]
    value = {
        "step": state.step,
        "config": config,
        "submission_id": submission_id,
        "history": state.history,
        "sums": state.sums,
        "digests": {path.name: storage.file_digest(path) for path in beside if path.exists()},
    }
    value["digest"] = storage.value_digest(value)
    (folder / TRAINING).write_text(json.dumps(value) + "\n")


def load_training(folder: Path) -> TrainingState:
    """The state of a training checkpoint, every file of which is what was written.

    Raises:
        DamagedError: one is not, or is missing.
        UserError: the folder is no training checkpoint.
    """
    step, history, sums, digests = _read_training(folder)
    for name in sorted({WEIGHTS, CARD, OPTIMIZER, *digests}):
        _verify(folder / name, digests.get(name, ""))
    weights, average = _load_tensors(folder / WEIGHTS), None
    if TRAINING_WEIGHTS in digests:
        weights, average = _load_tensors(folder / TRAINING_WEIGHTS), weights
    optimizer = _load_optimizer(folder / OPTIMIZER)
    return TrainingState(step, weights, average, optimizer, history, sums)


def _read_training(
    folder: Path,
) -> tuple[int, list[dict[str, float | int]], list[list[float]], dict[str, str]]:
    """The step, the history, the sums and the digests in the training file."""
    path = folder / TRAINING
    if not path.is_file():
        raise DamagedError(f"{folder} is no training checkpoint: it has no {TRAINING}")
    try:
        value = json.loads(path.read_bytes())
        digest = value.pop("digest")
        found = value["step"], value["history"], value["sums"], dict(value["digests"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DamagedError(f"{path} is not of this program, or damaged ({reason})") from error
    if digest != storage.value_digest(value):
        raise DamagedError(f"{path} is damaged: its digest is not that which was written with it")
    return found


_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error),
    *(ValueError, TypeError, LookupError, AttributeError, MemoryError),
)
"""what torch.load raises for files that torch did not write, by where it trips over them"""


def _load_optimizer(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # its message tells how to run code from it
            reason = "it holds more than tensors"
        raise DamagedError(f"{path} is a damaged training checkpoint ({reason})") from error
    return state


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise DamagedError(f"no such file: {path}, a part of the checkpoint; copy the whole folder")
    if storage.file_digest(path) != digest:
        raise DamagedError(f"{path} is damaged: its digest is not that which was written with it")


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(safetensors.torch.save(on_host))


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedError(f"no such weights: {path}") from error
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is not a whole safetensors file ({error})") from error


def _load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path} holds the weights of another model ({first})") from error
