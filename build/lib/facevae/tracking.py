"""The record of a run in MLflow; the only file that imports mlflow.

The driver makes the run and ends it; rank 0 writes metrics and pictures without waiting. Tags link
a run to those whose results it used.
"""

import contextlib
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import mlflow.pyfunc
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models import set_model as set_model
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.types import Schema, TensorSpec
from PIL import Image

import facevae
from facevae import pixels, storage
from facevae.checkpoint import CARD, ModelCard, load_model
from facevae.config import TrackingConfig
from facevae.errors import UserError

MODEL_NAME = "model"
CHECKPOINT = "checkpoint"
TRAINING_RUN_TAG = "facevae.training_run"
SHARDS_RUN_TAG = "facevae.shards_run"
VECTORS_RUN_TAG = "facevae.attributes_run"
RUN_FILE = "run.json"


class RunId(NamedTuple):
    """A run and the store that holds it: all that another process needs to add to it."""

    uri: str
    run_id: str


def store_uri(config: TrackingConfig, output: str, model_run: RunId | None = None) -> str:
    """The tracking store of a verb.

    In this order: the configuration's, MLFLOW_TRACKING_URI, that of the training run whose model
    is used, `mlflow.db` in the output folder. SQLite paths are made absolute: Ray moves its
    workers' working directory.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and model_run is not None:
        return model_run.uri
    if uri is None:
        return f"sqlite:///{storage.absolute(output)}/mlflow.db"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith("/"):
        return f"sqlite:///{Path(path).absolute()}"
    return uri


class Run:
    """A run being written to. Metrics and images go out in the background until `flush`."""

    def __init__(self, run: RunId) -> None:
        """Takes a run that exists."""
        self.id = run
        self._client = MlflowClient(run.uri)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the settings, nested keys joined by dots."""
        flat = [Param(key, str(value)[:6000]) for key, value in _flatten(values)]
        self._client.log_batch(self.id.run_id, params=flat)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self.id.run_id, metrics=batch, synchronous=False)

    def image(self, key: str, step: int, image: np.ndarray) -> None:
        """Log a uint8 picture of a step; the UI shows a key's steps as a slider."""
        self._client.log_image(self.id.run_id, image, key=key, step=step, synchronous=False)

    def picture(self, name: str, image: Image.Image) -> None:
        """Log a picture that has no step."""
        self._client.log_image(self.id.run_id, image, artifact_file=name)

    def file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._client.log_artifact(self.id.run_id, str(path))

    def json(self, name: str, value: Any) -> None:
        """Log a JSON-able value as an artifact."""
        self._client.log_dict(self.id.run_id, value, name)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in values.items():
            self._client.set_tag(self.id.run_id, key, value)

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Log which data the run used; MLflow keeps the first 36 digits of a digest."""
        dataset = MetaDataset(CodeDatasetSource({"digest": digest}), name, digest[:36])
        tag = InputTag("mlflow.data.context", context)
        entity = DatasetInput(dataset._to_mlflow_entity(), [tag])
        self._client.log_inputs(self.id.run_id, [entity])

    def flush(self) -> None:
        """Wait until all that was logged has arrived."""
        with self.active():
            mlflow.flush_async_logging()
            mlflow.flush_artifact_async_logging()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A block in which the run is the one that MLflow's fluent functions speak of."""
        mlflow.set_tracking_uri(self.id.uri)
        with mlflow.start_run(run_id=self.id.run_id, log_system_metrics=False):
            yield
        # Leaving the block marks the run as finished; only its driver may do that.
        self._client.update_run(self.id.run_id, status="RUNNING")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextlib.contextmanager
def start_run(
    config: TrackingConfig,
    verb: str,
    output: str,
    settings: Mapping[str, Any],
    *,
    model_run: RunId | None = None,
) -> Iterator[Run]:
    """A run that lasts as long as the block, and ends as FINISHED, KILLED or FAILED.

    If the output folder names a run of this store (of an earlier try), that one goes on.

    Raises:
        UserError: the tracking server cannot be reached.
    """
    uri = store_uri(config, output, model_run)
    run, is_new = _find_or_create(uri, config, verb, output)
    if is_new:
        run.params(settings)
        run.tags(_code_version())
    run.json("config.json", settings)
    client = MlflowClient(uri)
    client.update_run(run.id.run_id, status="RUNNING")
    status = "FAILED"
    with _system_metrics(run, config):
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.flush()
            client.set_terminated(run.id.run_id, status)


def _find_or_create(uri: str, config: TrackingConfig, verb: str, output: str) -> tuple[Run, bool]:
    _quiet()
    client = MlflowClient(uri)
    run_file = storage.join(storage.absolute(output), RUN_FILE)
    try:
        known = storage.read_json(run_file) if storage.exists(run_file) else {}
        if known.get("uri") == uri:
            client.get_run(known["run_id"])
            return Run(RunId(uri, known["run_id"])), False
        experiment = client.get_experiment_by_name(config.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(config.experiment, _artifact_root(uri))
        )
        name = config.run_name or verb
        created = client.create_run(experiment_id, run_name=name, tags={"facevae.verb": verb})
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot use the tracking store {uri}: {reason}") from error
    run = Run(RunId(uri, created.info.run_id))
    storage.write_json(run_file, run.id._asdict())
    return run, True


def read_run_id(folder: str) -> RunId | None:
    """The run that a verb's output folder belongs to; none if it names none."""
    uri = storage.join(folder, RUN_FILE)
    return RunId(**storage.read_json(uri)) if storage.exists(uri) else None


def trained_by(model: str, card: ModelCard) -> RunId | None:
    """The training run of a model that is named by a folder; none if its store is not known."""
    folder = Path(storage.absolute(model))
    for place in (folder, folder.parent, folder.parent.parent, folder / "train"):
        run = read_run_id(str(place))
        if run is not None and run.run_id == card.run_id:
            return run
    return None


def _artifact_root(uri: str) -> str | None:
    """Artifacts of an embedded store lie beside it; a server decides for itself."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else (Path(path).parent / "mlartifacts").as_uri()


def _quiet() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _code_version() -> dict[str, str]:
    versions = {"facevae.version": facevae.__version__, "facevae.torch": torch.__version__}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        folder = Path(facevae.__file__).parent
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        versions["mlflow.source.git.commit"] = commit.stdout.strip()
    return versions


@contextlib.contextmanager
def _system_metrics(run: Run, config: TrackingConfig) -> Iterator[None]:
    if not config.system_metrics:
        yield
        return
    monitor = SystemMetricsMonitor(run.id.run_id, tracking_uri=run.id.uri, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


# --- models --------------------------------------------------------------------------------------


class ReconstructionModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The logged model: uint8 faces [B,S,S,3] -> the same drawn again, uint8 [B,S,S,3].

    Its weights are an artifact in safetensors and its code is `logged_model.py`, so that nothing
    is unpickled. For latents and edits use `facevae.checkpoint.load_model` on its `checkpoint`.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self._vae = load_model(Path(context.artifacts[CHECKPOINT])).vae

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """The faces drawn again from their posterior mean."""
        with torch.no_grad():
            stored = torch.from_numpy(np.array(model_input))
            vae = self._vae
            images = pixels.model_input(stored, vae.image_size, vae.resize_method)
            return pixels.to_pixels(vae.decode(vae.encode(images).mean)).numpy()


def log_model(run: Run, folder: Path, example: np.ndarray, register_as: str | None) -> str:
    """Log a model folder as an MLflow model, and register it if a name is given.

    Args:
        run: the training run.
        folder: a model folder.
        example: uint8 [B,S,S,3], a few faces.
        register_as: name in the model registry.

    Returns:
        The URI of the logged model.
    """
    shape = (-1, *example.shape[1:])
    tensors = Schema([TensorSpec(np.dtype(np.uint8), shape)])
    with run.active():
        logged = mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=str(Path(facevae.__file__).parent / "logged_model.py"),
            artifacts={CHECKPOINT: str(folder)},
            signature=ModelSignature(tensors, tensors),
            input_example=example,
            pip_requirements=[f"facevae=={facevae.__version__}"],
            registered_model_name=register_as,
        )
    return str(logged.model_uri)


@contextlib.contextmanager
def model_folder(uri: str, config: TrackingConfig, output: str) -> Iterator[Path]:
    """A local model folder for any way of naming a model.

    Args:
        uri: a model, checkpoint or training-run folder, `runs:/<id>/model`,
            `models:/<name>@<alias>`, `models:/<name>/<version>` or `models:/<model id>`.
        config: where to look up MLflow's names.
        output: the output folder of the verb.

    Raises:
        UserError: there is no such model.
    """
    if not uri.startswith(("runs:/", "models:/")):
        with storage.local_copy(_folder_with_card(storage.absolute(uri))) as folder:
            yield folder
        return
    store = store_uri(config, output)
    mlflow.set_tracking_uri(store)
    _quiet()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            path = mlflow.artifacts.download_artifacts(uri, dst_path=temporary)
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no model {uri} in {store}: {reason}") from error
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
