"""Models in MLflow: logged, registered, and found again by any of their names."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models import set_model as set_model
from mlflow.types import Schema, TensorSpec
from pydantic import ValidationError

import facevae
from facevae import pixels
from facevae.config import LossConfig, TrackingConfig
from facevae.errors import UserError
from facevae.models.checkpoint import CARD, ModelCard, load_model, read_card
from facevae.runs import storage
from facevae.tracking.connection import classify_error, prepare
from facevae.tracking.moved import mend_artifact_places
from facevae.tracking.run import Run, read_run_id
from facevae.tracking.store import RunId, may_write, store_uri

MODEL_NAME = "model"
CHECKPOINT = "checkpoint"
TRAINING_CLAIM = "config.json"
"""the file of a training's output folder that has its settings"""
MLFLOW_MODELS = ("runs:/", "models:/")
"""what the name of a model begins with that MLflow knows, and that is no path"""
MODEL_DIGEST_TAG = "facevae.model_digest"


class ReconstructionModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The logged model: uint8 faces [B,S,S,3] -> their reconstructions, uint8 [B,S,S,3].

    Its weights are an artifact in safetensors and its code is `logged_model.py`, so that nothing
    is unpickled. For latents and edits use `facevae.models.checkpoint.load_model` on its
    `checkpoint`.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self._vae = load_model(Path(context.artifacts[CHECKPOINT])).vae

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """The reconstructions from the posterior mean."""
        with torch.no_grad():
            stored = torch.from_numpy(np.array(model_input))
            vae = self._vae
            images = pixels.model_input(stored, vae.image_size, vae.resize_method)
            return pixels.to_pixels(vae.decode(vae.encode(images).mean)).numpy()


def log_model(run: Run, folder: Path, example: np.ndarray, register_as: str | None) -> str:
    """Log a model folder as an MLflow model, and register it if a name is given.

    A model that an earlier attempt has logged or registered is not logged or registered again; one
    of other weights, which the run had before it was made longer, stays beside it.

    Args:
        run: the training run.
        folder: a model folder.
        example: uint8 [B,S,S,3], a few faces.
        register_as: name in the model registry.

    Returns:
        The URI of the logged model.
    """
    client = MlflowClient(run.id.uri)
    digest = read_card(folder).digest
    uri = run.call(
        lambda: _logged(client, run.id, digest) or _log(client, run.id, folder, example, digest)
    )
    if register_as is not None:
        run.call(lambda: _register(client, register_as, uri, run.id))
    return uri


def _logged(client: MlflowClient, run: RunId, digest: str) -> str | None:
    """The model of these weights that the run has logged; what a broken attempt left is removed."""
    experiment = client.get_run(run.run_id).info.experiment_id
    models = client.search_logged_models([experiment], f"source_run_id = '{run.run_id}'")
    ready = None
    for model in models:
        if model.status == LoggedModelStatus.READY:
            ready = model.model_uri if _digest(model, run.uri) == digest else ready
        elif model.name == MODEL_NAME:
            client.delete_logged_model(model.model_id)
    return ready


def _digest(model: LoggedModel, store: str) -> str:
    """The digest of a logged model; earlier versions left it in the model's card alone."""
    if MODEL_DIGEST_TAG in model.tags:
        return str(model.tags[MODEL_DIGEST_TAG])
    with model_folder(model.model_uri, TrackingConfig(uri=store), "") as folder:
        return read_card(folder).digest


def _log(client: MlflowClient, run: RunId, folder: Path, example: np.ndarray, digest: str) -> str:
    record = client.get_run(run.run_id)
    model = client.create_logged_model(
        record.info.experiment_id,
        name=MODEL_NAME,
        source_run_id=run.run_id,
        tags={MODEL_DIGEST_TAG: digest},
        params=record.data.params,
    )
    shape = (-1, *example.shape[1:])
    tensors = Schema([TensorSpec(np.dtype(np.uint8), shape)])
    with _global_store(run.uri):
        # `pyfunc.log_model` is this call for the active run, whose end would end our run.
        logged = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            model_id=model.model_id,
            run_id=run.run_id,
            python_model=str(Path(__file__).with_name("logged_model.py")),
            artifacts={CHECKPOINT: str(folder)},
            signature=ModelSignature(tensors, tensors),
            input_example=example,
            pip_requirements=[f"facevae=={facevae.__version__}"],
        )
    return str(logged.model_uri)


def _register(client: MlflowClient, name: str, uri: str, run: RunId) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if "ALREADY_EXISTS" not in str(error.error_code):
            raise
    versions = client.search_model_versions(f"run_id = '{run.run_id}'")
    if (name, uri) not in [(version.name, version.source) for version in versions]:
        model_id = uri.removeprefix("models:/")
        with _global_store(run.uri):  # it looks up the model there, whatever the client's store
            client.create_model_version(name, source=uri, run_id=run.run_id, model_id=model_id)


@contextlib.contextmanager
def _global_store(uri: str) -> Iterator[None]:
    """A block in which MLflow's functions that take no store use this one."""
    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ[name] = before


def trained_by(model: str, card: ModelCard) -> RunId | None:
    """The training run of a model that is named by a folder; none if its store is not known."""
    found = _training_folder(model, card)
    return None if found is None else read_run_id(found)


def training_loss(
    model: str, card: ModelCard, config: TrackingConfig, output: str
) -> LossConfig | None:
    """The loss that a model was trained with; none if its training's settings are not known here.

    They are looked up in the folder of the training run, or in MLflow for a model that is named by
    it.

    Args:
        model: its name, as in `model_folder`.
        card: its.
        config: where to look up MLflow's names.
        output: the output folder of the command.
    """
    settings: Any = None
    if model.startswith(MLFLOW_MODELS):
        prepare()
        with contextlib.suppress(MlflowException, OSError):
            params = MlflowClient(store_uri(config, output)).get_run(card.run_id).data.params
            names = ("reconstruction", "network", "weights")
            if all(f"loss.{name}" in params for name in names):
                settings = {name: params[f"loss.{name}"] for name in names}
    elif (folder := _training_folder(model, card)) is not None:
        uri = storage.join(folder, TRAINING_CLAIM)
        settings = storage.read_json(uri).get("loss") if storage.exists(uri) else None
    try:
        return None if settings is None else LossConfig(**settings)
    except (TypeError, ValidationError):  # of another version
        return None


def _training_folder(model: str, card: ModelCard) -> str | None:
    """The output folder of the training run of a model that is named by a folder."""
    if model.startswith(MLFLOW_MODELS):
        return None
    folder = storage.absolute(model)
    above = storage.parent(folder)
    for place in (folder, above, storage.parent(above), storage.join(folder, "train")):
        run = read_run_id(place)
        if run is not None and run.run_id == card.run_id:
            return place
    return None


@contextlib.contextmanager
def model_folder(uri: str, config: TrackingConfig, output: str) -> Iterator[Path]:
    """A local model folder for any way of naming a model.

    Args:
        uri: a model, checkpoint or training-run folder, `runs:/<id>/model`,
            `models:/<name>@<alias>`, `models:/<name>/<version>` or `models:/<model id>`.
        config: where to look up MLflow's names.
        output: the output folder of the command.

    Raises:
        UserError: there is no such model.
    """
    if not uri.startswith(MLFLOW_MODELS):
        with storage.local_copy(_folder_with_card(storage.absolute(uri))) as folder:
            yield folder
        return
    store = store_uri(config, output)
    prepare()
    if may_write(store):
        mend_artifact_places(store)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with _global_store(store):  # where it looks up the models of a run
                path = mlflow.artifacts.download_artifacts(
                    uri, dst_path=temporary, tracking_uri=store, registry_uri=store
                )
        except (MlflowException, OSError) as error:
            raise UserError(f"no model {uri} in {store}: {classify_error(error)}") from error
        cards = sorted(Path(path).rglob(CARD))
        if len(cards) != 1:
            raise UserError(f"{uri} holds {len(cards)} models of this program, expected one")
        yield cards[0].parent


def _folder_with_card(uri: str) -> str:
    for folder in (uri, storage.join(uri, MODEL_NAME), storage.join(uri, "train", MODEL_NAME)):
        if storage.exists(storage.join(folder, CARD)):
            return folder
    raise UserError(
        f"no model in {uri}: expected a folder with {CARD}, or a training run's output folder that "
        f"holds {MODEL_NAME}/{CARD}"
    )
