"""A run: the driver makes it, proves that its store can be written to, and ends it.

Tags link a run to those whose results it used.
"""

import contextlib
import json
import math
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow.entities
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

import facevae
from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import connection
from facevae.tracking.connection import classify_error, without_password
from facevae.tracking.moved import artifact_root, find_store, mend_artifact_places
from facevae.tracking.names import mlflow_name
from facevae.tracking.store import RunId, absolute_store, may_write, refuse_read_only, store_uri
from facevae.tracking.sync import Mirror, Store
from facevae.tracking.system_metrics import system_metrics

T = TypeVar("T")
START_SECONDS = 15.0
"""how long a command waits at its start for the server to answer, and at its end after a failure"""
MIGRATION_SECONDS = 300.0
"""how long MLflow may make the tables of an SQLite store"""
NOT_FOUND = 404
MAX_PARAM, MAX_TAG, PARAMS_AT_ONCE = 6000, 8000, 100
"""MLflow's limits: characters of a parameter and of a tag, and parameters in a request"""
TRAINING_RUN_TAG = "facevae.training_run"
SHARDS_RUN_TAG = "facevae.shards_run"
VECTORS_RUN_TAG = "facevae.attributes_run"
OUTPUT_TAG = "facevae.output"
SUBMISSION_TAG = "facevae.submission_id"
NODES_TAG = "facevae.nodes"
STARTS_TAG, RESTARTS_TAG = "facevae.starts", "facevae.restarts"
KEY_TAG = "facevae.key"
"""tells which run an output folder's driver made"""
RUN_FILE = "run.json"


class Run:
    """A run being written to.

    Metrics, tags and images go out in the background until `flush`; files, pictures and data sets
    have arrived when their call returns. What the server refuses costs itself alone, and is named
    in a warning. Names that MLflow does not take are mapped (`mlflow_name`).

    Raises:
        UserError: the server was away for longer than the patience; from `flush`, `end` and every
            call that waits. From `call` and `end` also: it refused.
    """

    def __init__(
        self,
        run: RunId,
        config: TrackingConfig,
        output: str,
        *,
        started: float,
        log: Callable[[str], object] = log,
    ) -> None:
        """Takes a run that exists.

        Args:
            run: the run.
            config: how long to wait for the server.
            output: the command's folder, to tell where its work is safe.
            started: when the run began, in seconds since 1970.
            log: where messages about the server go.
        """
        connection.prepare()
        self.id, self.started, self._patience = run, started, config.patience_seconds
        self._client = MlflowClient(run.uri)
        self._store = Store(self._client, run.run_id)
        safe = (
            f"what was made is safe in {output}; give the same command again to go on from there "
            "and deliver the rest"
        )
        self._mirror = Mirror(without_password(run.uri), safe, self._store.send_points, log)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step.

        Those that an earlier attempt has logged are left out, and those that are not finite: MLflow
        keeps infinity as the largest number, and no chart shows NaN.
        """
        now = int(time.time() * 1000)
        self._mirror.add(
            Metric(mlflow_name(key), float(value), now, step)
            for key, value in values.items()
            if math.isfinite(value)
        )

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        what = f"tags {', '.join(values)}"
        self._mirror.later(what, lambda: _set_tags(self._client, self.id.run_id, values))

    def mark_start(self, step: int) -> None:
        """Mark that work begins or goes on at a step.

        Two tags tell the steps of all starts, and how many of them were restarts.
        """
        tags: dict[str, str] = {}

        def send() -> None:
            if not tags:  # once, so that a second attempt adds nothing
                stored = self._client.get_run(self.id.run_id).data.tags.get(STARTS_TAG, "").split()
                tags[STARTS_TAG] = " ".join([*stored, str(step)])
                tags[RESTARTS_TAG] = str(len(stored))
            _set_tags(self._client, self.id.run_id, tags)

        self._mirror.later(f"tags {STARTS_TAG}, {RESTARTS_TAG}", send)

    def image(
        self, key: str, step: int, image: np.ndarray | Callable[[], np.ndarray | None]
    ) -> None:
        """Log a uint8 picture of a step, or what a function reads; the UI shows steps as a slider.

        A function that finds no picture returns none. What is in the store already is not read.
        """
        now, load = int(time.time() * 1000), image if callable(image) else lambda: image
        self._mirror.later(
            f"image '{key}' of step {step}",
            lambda: self._store.send_image(mlflow_name(key), step, now, load),
        )

    def picture(self, name: str, image: Image.Image) -> None:
        """Log a picture that has no step."""
        self._deliver(
            name, lambda: self._client.log_image(self.id.run_id, image, artifact_file=name)
        )

    def file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._deliver(path.name, lambda: self._client.log_artifact(self.id.run_id, str(path)))

    def json(self, name: str, value: Any) -> None:
        """Log a JSON-able value as an artifact, with null for what is not finite."""
        valid = storage.without_nan(value)
        self._deliver(name, lambda: self._client.log_dict(self.id.run_id, valid, name))

    def text(self, name: str, text: str) -> None:
        """Log a text as an artifact."""
        self._deliver(name, lambda: self._client.log_text(self.id.run_id, text, name))

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Log which data the run used; MLflow keeps the first 36 digits of a digest."""
        source = json.dumps({"tags": {"digest": digest}})
        data = Dataset(name, digest[:36], source_type="code", source=source)
        used = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._deliver(f"data set '{name}'", lambda: self._client.log_inputs(self.id.run_id, [used]))

    def _deliver(self, what: str, send: Callable[[], object]) -> None:
        self._mirror.deliver(what, send, self._patience)

    def call(self, send: Callable[[], T]) -> T:
        """The result of a call to the server, repeated while it is away."""
        return self._mirror.call(send, self._patience)

    def flush(self) -> None:
        """Wait until all has arrived."""
        self._mirror.flush(self._patience)

    def end(self, status: str, patience: float | None = None) -> None:
        """Mark the run, after all has arrived, as FINISHED, FAILED or KILLED."""
        self._mirror.call(
            lambda: self._client.set_terminated(self.id.run_id, status),
            self._patience if patience is None else patience,
        )

    def close(self) -> None:
        """Stop; drops what has not arrived."""
        self._mirror.close()


@contextlib.contextmanager
def start_run(
    config: TrackingConfig,
    command: str,
    output: str,
    settings: Mapping[str, Any],
    *,
    model_run: RunId | None = None,
    submission_id: str | None = None,
    work: str = "",
) -> Iterator[Run]:
    """A run that lasts as long as the block, and ends as FINISHED, KILLED or FAILED.

    If the output folder names a run of this store and this work (of an earlier attempt), that one
    goes on, and what it has logged is not logged again. Before the block begins, parameters, tags
    and an artifact have been written; after it, the run waits until all has arrived.

    Args:
        config: the store and the experiment.
        command: what runs.
        output: its folder.
        settings: its resolved configuration, JSON-able.
        model_run: the training run whose model is used.
        submission_id: the Ray job that this is; none: none.
        work: tells what a folder may be used for again from what it was used for; empty where a
            folder is used once.

    Raises:
        UserError: the store cannot be reached or written to, found within seconds; or at the end,
            it was away for longer than `config.patience_seconds`.
    """
    uri = store_uri(config, output, model_run)
    refuse_read_only(uri)
    if model_run is not None and not may_write(model_run.uri):
        theirs = without_password(model_run.uri)
        log(f"{theirs}, of the model's training, takes no records here: {uri} does")
    tags = {"facevae.verb": command, OUTPUT_TAG: storage.absolute(output), **_code_version()}
    if submission_id is not None:
        tags[SUBMISSION_TAG] = submission_id
    info = _begin(uri, config, output, settings, tags, work)
    run = Run(RunId(uri, info.run_id), config, output, started=info.start_time / 1000)
    try:
        measured = system_metrics(run.id, run.started, run.metrics)
        with measured if config.system_metrics else contextlib.nullcontext():
            yield run
        run.flush()
        run.end("FINISHED")
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
        with contextlib.suppress(UserError):  # the first error tells what matters
            run.end(status, START_SECONDS)
        raise
    finally:
        run.close()


def read_run_id(folder: str) -> RunId | None:
    """The run that a command's output folder belongs to; none if it names none.

    Its store is the one that was moved with the folder, if it was.
    """
    known = _read_run_file(storage.join(folder, RUN_FILE))
    if "run_id" not in known:
        return None
    run = RunId(known["uri"], known["run_id"])
    return find_store(run, storage.absolute(folder)) if storage.is_local(folder) else run


def _read_run_file(uri: str) -> dict[str, str]:
    return dict(storage.read_json(uri)) if storage.exists(uri) else {}


def _begin(
    uri: str,
    config: TrackingConfig,
    output: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    work: str,
) -> mlflow.entities.RunInfo:
    """The run of the output folder, or a new one, with all written that a run begins with."""
    connection.prepare()
    mend_artifact_places(uri)
    run_file = storage.join(storage.absolute(output), RUN_FILE)
    known, before = _read_run_file(run_file), read_run_id(output)
    key = known.get("key") or uuid.uuid4().hex

    is_known = before is not None and absolute_store(before.uri) == uri
    goes_on = is_known and known.get("work", "") == work
    if not goes_on:
        # Written first: a driver that dies before it can write which run it made is found out.
        storage.write_json(run_file, {**known, "key": key})

    def find() -> mlflow.entities.Run:
        client = MlflowClient(uri)
        if goes_on:
            return _find(client, RunId(uri, known["run_id"]), run_file)
        return _create(client, uri, config, {**tags, KEY_TAG: key})

    def begin() -> None:
        client, run_id = MlflowClient(uri), run.info.run_id
        client.update_run(run_id, status="RUNNING")
        _set_tags(client, run_id, tags)
        params = [Param(*each) for each in _params(settings) if each[0] not in run.data.params]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        _write_artifact(client, run_id, settings)

    is_server = uri.startswith(("http://", "https://"))
    patience = START_SECONDS if is_server else MIGRATION_SECONDS
    safe = (
        "nothing was started: check that MLFLOW_TRACKING_URI or --tracking.uri names the server, "
        "that it runs, and that its database and its artifact store answer"
    )
    mirror = Mirror(without_password(uri), safe, lambda _: None, log)
    try:
        # Twice, for a connection may break; a server that is away is not waited for.
        run = mirror.call(find, patience, attempts=2)
        if not goes_on or known["uri"] != uri:
            made = RunId(uri, run.info.run_id)._asdict()
            storage.write_json(run_file, {**made, "work": work})
        mirror.call(begin, patience, attempts=2)
        return run.info
    finally:
        mirror.close()


def _find(client: MlflowClient, known: RunId, run_file: str) -> mlflow.entities.Run:
    """The run of an earlier attempt."""
    try:
        run = client.get_run(known.run_id)
    except MlflowException as error:
        if error.get_http_status_code() != NOT_FOUND or error.error_code == "ENDPOINT_NOT_FOUND":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        raise UserError(
            f"the run {known.run_id} in {without_password(known.uri)} was deleted: restore it "
            f"there, or remove {run_file} to go on in a new one"
        )
    return run


def _create(
    client: MlflowClient, uri: str, config: TrackingConfig, tags: Mapping[str, str]
) -> mlflow.entities.Run:
    """A new run, or the one that was made with this key before anyone came to know of it."""
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        try:
            client.create_experiment(config.experiment, artifact_root(uri))
        except MlflowException:  # another driver may have been faster
            if client.get_experiment_by_name(config.experiment) is None:
                raise
        experiment = client.get_experiment_by_name(config.experiment)
    made = client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'")
    if made:
        return made[0]
    name = config.run_name or tags["facevae.verb"]
    return client.create_run(experiment.experiment_id, run_name=name, tags=dict(tags))


def _write_artifact(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    try:
        client.log_dict(run_id, dict(settings), "config.json")
    except Exception as error:  # its many causes lie on the server
        raise UserError(
            f"artifacts cannot be written ({classify_error(error).reason}): look at the tracking "
            "server's log, and check --artifacts-destination and its access to it (S3 keys, "
            "endpoint, bucket)"
        ) from error


def _params(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as parameters, their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _params(value, f"{prefix}{key}.")
        else:
            yield mlflow_name(f"{prefix}{key}"), str(value)[:MAX_PARAM]


def _code_version() -> dict[str, str]:
    versions = {"facevae.version": facevae.__version__, "facevae.torch": torch.__version__}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        words = ["git", "-C", str(Path(facevae.__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(words, capture_output=True, text=True, check=True)
        versions["mlflow.source.git.commit"] = commit.stdout.strip()
    return versions


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    named = [RunTag(mlflow_name(key), value[:MAX_TAG]) for key, value in tags.items()]
    client.log_batch(run_id, tags=named)
