"""A run being written to: what it logs arrives once, however often the server goes away."""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from PIL import Image

from facevae.config import TrackingConfig
from facevae.progress import say
from facevae.tracking import connection
from facevae.tracking.delivery import Delivery, Tell
from facevae.tracking.stored import FULL, IMAGES, NOTHING, THUMBNAIL, read_stored

T = TypeVar("T")
THUMBNAIL_SIZE = 256
START_SECONDS = 15.0
"""how long a verb waits at its start for the server to answer, and at its end after a failure"""
MAX_PARAM = 6000
"""characters of a value that MLflow takes"""
IMAGES_TAG = "mlflow.loggedImages"
"""tells MLflow's page that a run has images"""

STARTS_TAG, RESTARTS_TAG = "facevae.starts", "facevae.restarts"


class RunId(NamedTuple):
    """A run and the store that holds it: all that another process needs to add to it."""

    uri: str
    run_id: str


class _StepImage(NamedTuple):
    key: str
    step: int
    name: str
    load: Callable[[], np.ndarray | None]


class Run:
    """A run being written to.

    Metrics and images go out in the background until `flush`; all else waits until it has arrived.

    Raises:
        UserError: the server was away for longer than the patience, or it refused; from every
            method but `metrics`, `image`, `mark_start`, `skip_stored` and `close`.
    """

    def __init__(
        self, run: RunId, config: TrackingConfig, output: str, *, started: float, tell: Tell = say
    ) -> None:
        """Takes a run that exists.

        Args:
            run: the run.
            config: how long to wait for the server.
            output: the verb's folder, to tell where its work is safe.
            started: when the run began, in seconds since 1970.
            tell: where messages about the server go.
        """
        connection.prepare()
        self.id, self.started, self.patience = run, started, config.patience_seconds
        self._client = MlflowClient(run.uri)
        self._stored, self._says_images = NOTHING, False
        safe = (
            f"what was made is safe in {output}; give the same command again to go on from there "
            "and deliver the rest"
        )
        self.delivery = Delivery(connection.without_password(run.uri), safe, tell)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the settings, nested keys joined by dots; those that are there stay as they are."""
        flat = dict(_flatten(values))

        def send() -> None:
            there = self._client.get_run(self.id.run_id).data.params
            new = [Param(key, flat[key]) for key in flat if key not in there]
            for start in range(0, len(new), 100):  # MLflow's limit
                self._client.log_batch(self.id.run_id, params=new[start : start + 100])

        self.call(send)

    def metrics(self, step: int, values: Mapping[str, float], *, quiet: bool = False) -> None:
        """Log metrics of a step; `quiet` ones are not worth a message when the server is away."""
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in values.items()]
        self.delivery.put(self._send_metrics, batch, quiet=quiet)

    def image(
        self, key: str, step: int, image: np.ndarray | Callable[[], np.ndarray | None]
    ) -> None:
        """Log a uint8 picture of a step, or what a function reads; the UI shows steps as a slider.

        A function that finds no picture returns none.
        """
        # The name is made once, so that a second try overwrites what the first one left.
        name = f"{key}+step+{step}+timestamp+{int(time.time() * 1000)}+{uuid.uuid4()}"
        load = image if callable(image) else lambda: image
        self.delivery.put(self._send_images, [_StepImage(key, step, name, load)])

    def picture(self, name: str, image: Image.Image) -> None:
        """Log a picture that has no step."""
        self.call(lambda: self._client.log_image(self.id.run_id, image, artifact_file=name))

    def file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self.call(lambda: self._client.log_artifact(self.id.run_id, str(path)))

    def json(self, name: str, value: Any) -> None:
        """Log a JSON-able value as an artifact."""
        self.call(lambda: self._client.log_dict(self.id.run_id, value, name))

    def tags(self, values: Mapping[str, str], *, wait: bool = True) -> None:
        """Set tags; in the background if nothing waits for them."""

        def send() -> None:
            for key, value in values.items():
                self._client.set_tag(self.id.run_id, key, value)

        if wait:
            self.call(send)
        else:
            self.delivery.put(lambda _: send(), [None])

    def mark_start(self, step: int) -> None:
        """Mark, in the background, that work begins or goes on at a step.

        Two tags tell the steps of all starts, and how many of them were restarts.
        """
        starts: list[str] = []

        def send(_: list[None]) -> None:
            if not starts:  # once, so that a second try adds nothing
                tags = self._client.get_run(self.id.run_id).data.tags
                starts.extend([*tags.get(STARTS_TAG, "").split(), str(step)])
            self._client.set_tag(self.id.run_id, STARTS_TAG, " ".join(starts))
            self._client.set_tag(self.id.run_id, RESTARTS_TAG, str(len(starts) - 1))

        self.delivery.put(send, [None])

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Log which data the run used; MLflow keeps the first 36 digits of a digest."""
        dataset = MetaDataset(CodeDatasetSource({"digest": digest}), name, digest[:36])
        tag = InputTag("mlflow.data.context", context)
        entity = DatasetInput(dataset._to_mlflow_entity(), [tag])
        self.call(lambda: self._client.log_inputs(self.id.run_id, [entity]))

    def skip_stored(self) -> None:
        """From here on, log no point and no image that an earlier try has logged.

        The store is asked in the background, before anything that is logged later is sent.
        """
        self.delivery.put(self._ask, [None], quiet=True)

    def call(self, send: Callable[[], T]) -> T:
        """The result of a call to the server, tried again while it is away."""
        return self.delivery.call(send, self.patience)

    def flush(self) -> None:
        """Wait until all that was logged has arrived."""
        self.delivery.flush(self.patience)

    def end(self, status: str, patience: float) -> None:
        """Mark the run as FINISHED, FAILED or KILLED."""
        self.delivery.call(lambda: self._client.set_terminated(self.id.run_id, status), patience)

    def close(self) -> None:
        """Stop the delivery; drops what has not arrived."""
        self.delivery.close()

    # --- on the delivery's thread ---

    def _ask(self, _: list[None]) -> None:
        self._stored = read_stored(self._client, self.id.run_id)

    def _send_metrics(self, metrics: list[Metric]) -> None:
        if new := [metric for metric in metrics if self._stored.lacks(metric)]:
            self._client.log_batch(self.id.run_id, metrics=new)

    def _send_images(self, images: list[_StepImage]) -> None:
        for image in images:
            self._send_image(image)

    def _send_image(self, image: _StepImage) -> None:
        place = (image.key.replace("/", "~"), image.step)  # as MLflow names them
        if place in self._stored.images or (pixels := image.load()) is None:
            return
        name = self._stored.image_names.get(place, image.name.replace("/", "~"))
        picture = Image.fromarray(pixels)
        thumbnail = picture.copy()
        thumbnail.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        with tempfile.TemporaryDirectory() as folder:
            # The full picture goes last: it shows that both are there.
            for each, end in ((thumbnail, THUMBNAIL), (picture, FULL)):
                path = Path(folder) / f"{name}{end}"
                each.save(path)
                self._client.log_artifact(self.id.run_id, str(path), IMAGES)
        if not self._says_images:
            self._client.set_tag(self.id.run_id, IMAGES_TAG, True)
            self._says_images = True


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)[:MAX_PARAM]
