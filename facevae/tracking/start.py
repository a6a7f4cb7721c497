"""The beginning and the end of a run: the driver makes it, proves the store, and ends it.

Tags link a run to those whose results it used.
"""

import contextlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

import facevae
from facevae import storage
from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.progress import say
from facevae.tracking import connection
from facevae.tracking.delivery import Delivery, UndeliveredError
from facevae.tracking.failures import judge
from facevae.tracking.runs import START_SECONDS, Run, RunId
from facevae.tracking.system_metrics import system_metrics

T = TypeVar("T")
MIGRATION_SECONDS = 300.0
"""how long MLflow may make the tables of an SQLite store"""
NOT_FOUND = 404
TRAINING_RUN_TAG = "facevae.training_run"
SHARDS_RUN_TAG = "facevae.shards_run"
VECTORS_RUN_TAG = "facevae.attributes_run"
OUTPUT_TAG = "facevae.output"
SUBMISSION_TAG = "facevae.submission_id"
NODES_TAG = "facevae.nodes"
KEY_TAG = "facevae.key"
"""tells which run an output folder's driver made"""
RUN_FILE = "run.json"


def store_uri(config: TrackingConfig, output: str, model_run: RunId | None = None) -> str:
    """The tracking store of a verb, see `connection.choose_store`."""
    return connection.choose_store(config, output, model_run and model_run.uri)


@contextlib.contextmanager
def start_run(
    config: TrackingConfig,
    verb: str,
    output: str,
    settings: Mapping[str, Any],
    *,
    model_run: RunId | None = None,
    submission_id: str | None = None,
    work: str = "",
) -> Iterator[Run]:
    """A run that lasts as long as the block, and ends as FINISHED, KILLED or FAILED.

    If the output folder names a run of this store and this work (of an earlier try), that one goes
    on, and what it has logged is not logged again. Before the block begins, parameters, tags and an
    artifact have been written; after it, the run waits until all has arrived.

    Args:
        config: the store and the experiment.
        verb: what runs.
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
    tags = {"facevae.verb": verb, OUTPUT_TAG: storage.absolute(output), **_code_version()}
    if submission_id is not None:
        tags[SUBMISSION_TAG] = submission_id
    run = _open(uri, config, verb, output, settings, tags, work)
    try:
        with system_metrics(run) if config.system_metrics else contextlib.nullcontext():
            yield run
        run.flush()
        run.end("FINISHED", run.patience)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
        with contextlib.suppress(UserError):  # the first error tells what matters
            run.end(status, START_SECONDS)
        raise
    finally:
        run.close()


class _Found(NamedTuple):
    run_id: str
    started: float
    is_new: bool


def _open(
    uri: str,
    config: TrackingConfig,
    verb: str,
    output: str,
    settings: Mapping[str, Any],
    tags: dict[str, str],
    work: str,
) -> Run:
    """The run of the output folder, or a new one, with all written that a run begins with."""
    connection.prepare()
    run_file = storage.join(storage.absolute(output), RUN_FILE)
    known = storage.read_json(run_file) if storage.exists(run_file) else {}
    with _asking(uri) as ask:
        client = ask(lambda: MlflowClient(uri))
        if known.get("uri") == uri and known.get("work", "") == work:
            found = ask(lambda: _find(client, known["run_id"], run_file))
        else:
            key = known.get("key") or uuid.uuid4().hex
            # Written first: a driver that dies before it can write which run it made is found out.
            storage.write_json(run_file, {**known, "key": key})
            found = ask(lambda: _create(client, uri, config, verb, {**tags, KEY_TAG: key}))
            storage.write_json(run_file, {**RunId(uri, found.run_id)._asdict(), "work": work})
        ask(lambda: _begin(client, found.run_id, tags))
        ask(lambda: _write_artifact(client, found.run_id, settings))
    run = Run(RunId(uri, found.run_id), config, output, started=found.started)
    try:
        run.params(settings)
    except UserError:
        run.close()
        raise
    if not found.is_new:
        run.skip_stored()
    return run


class _Ask(Protocol):
    def __call__(self, send: Callable[[], T]) -> T: ...


@contextlib.contextmanager
def _asking(uri: str) -> Iterator[_Ask]:
    """Calls that do not wait for a server that is away, nor, all together, for a slow one."""
    is_server = uri.startswith(("http://", "https://"))
    seconds = START_SECONDS if is_server else MIGRATION_SECONDS
    ends = time.monotonic() + seconds
    server = connection.without_password(uri)
    delivery = Delivery(server, "nothing was started", say)

    def ask(send: Callable[[], T]) -> T:
        try:
            return delivery.call(send, ends - time.monotonic(), hasty=True)
        except UndeliveredError as error:
            raise UserError(
                f"the tracking server {server} does not answer within {seconds:.0f} s: check that "
                "MLFLOW_TRACKING_URI or --tracking.uri names it, that it runs, and that its "
                "database and its artifact store answer"
            ) from error

    try:
        yield ask
    finally:
        delivery.close()


def _find(client: MlflowClient, run_id: str, run_file: str) -> _Found:
    """The run of an earlier try."""
    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.get_http_status_code() != NOT_FOUND or error.error_code == "ENDPOINT_NOT_FOUND":
            raise
        info = None
    if info is None or info.lifecycle_stage != "active":
        raise UserError(
            f"the run {run_id} was deleted: restore it there, or remove {run_file} to go on in a "
            "new one"
        )
    return _Found(run_id, info.start_time / 1000, False)


def _create(
    client: MlflowClient, uri: str, config: TrackingConfig, verb: str, tags: dict[str, str]
) -> _Found:
    """A new run, or the one that was made with this key before anyone came to know of it."""
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        try:
            experiment_id = client.create_experiment(config.experiment, _artifact_root(uri))
        except MlflowException:  # another driver may have been faster
            experiment = client.get_experiment_by_name(config.experiment)
            if experiment is None:
                raise
    if experiment is not None:
        experiment_id = experiment.experiment_id
        made = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'")
        if made:
            return _Found(made[0].info.run_id, made[0].info.start_time / 1000, False)
    name = config.run_name or verb
    info = client.create_run(experiment_id, run_name=name, tags=tags).info
    return _Found(info.run_id, info.start_time / 1000, True)


def _begin(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _write_artifact(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    try:
        client.log_dict(run_id, dict(settings), "config.json")
    except Exception as error:  # its many causes lie on the server
        raise UserError(
            f"artifacts cannot be written ({judge(error).reason}): look at the server's log, and "
            "check --artifacts-destination and its access to it (S3 keys, endpoint, bucket)"
        ) from error


def read_run_id(folder: str) -> RunId | None:
    """The run that a verb's output folder belongs to; none if it names none."""
    uri = storage.join(folder, RUN_FILE)
    known = storage.read_json(uri) if storage.exists(uri) else {}
    return RunId(known["uri"], known["run_id"]) if "run_id" in known else None


def _artifact_root(uri: str) -> str | None:
    """Artifacts of an embedded store lie beside it; a server decides for itself."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else (Path(path).parent / "mlartifacts").as_uri()


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
