"""Runs on a real MLflow server that refuses, is killed, and comes back on the same port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from facevae.config import TrackingConfig
from facevae.errors import UnreachableError, UserError
from facevae.runs import storage
from facevae.tracking import Run, RunId, read_run_id, start_run, sync
from facevae.tracking import run as running

pytestmark = pytest.mark.slow

USER, PASSWORD = "admin", "a-long-password"
VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


class Server:
    """An MLflow server over SQLite with users, which can be killed and started again."""

    def __init__(self, folder: Path):
        self.folder, self.artifacts = folder, folder / "artifacts"
        self.artifacts.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://localhost:{self.port}"
        self.process = None

    def start(self):
        words = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--app-name", "basic-auth"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.artifacts)),
            *("--allowed-hosts", f"localhost:{self.port}"),
        ]
        access = {
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
        }
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                words,
                cwd=self.folder,
                env={**os.environ, **access},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends = time.monotonic() + 480
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def access(monkeypatch):
    for name, value in zip(VARIABLES, (USER, PASSWORD), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(running, "START_SECONDS", 240.0)  # the server may share few cores


def config(uri: str, **settings) -> TrackingConfig:
    return TrackingConfig(uri=uri, **{"system_metrics": False, "patience_seconds": 240, **settings})


def begin(uri: str, folder: Path):
    with start_run(config(uri), "test", str(folder), {"a": 1}):
        pytest.fail("it began")


def points(client: MlflowClient, run: RunId, key: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(run.run_id, key)
    return [(point.step, point.value) for point in history]


def test_a_server_that_is_not_there_is_one_line_in_seconds(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(UserError, match="cannot be used: connection refused: check that MLFLOW_T"):
        begin(uri, tmp_path)
    assert time.monotonic() - begun < 15


def test_a_server_that_never_answers_is_one_line_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "START_SECONDS", 1.0)
    monkeypatch.setattr(sync, "REQUEST_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"for 1 s \(no answer\); .* check that MLFLOW_TRACK"):
            begin(uri, tmp_path)


def test_a_missing_or_wrong_password_names_the_variables(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-secret")
    with pytest.raises(UserError, match=r"\(401\): check .*USERNAME and .*PASSWORD$") as caught:
        begin(server.uri, tmp_path)
    assert "wrong-secret" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(UserError, match=r"\(401\): set MLFLOW_TRACKING_PASSWORD$"):
        begin(server.uri, tmp_path)


def test_a_host_name_that_the_server_does_not_know_names_the_option(server, tmp_path):
    with pytest.raises(UserError, match=r"\(403\): start it with --allowed-hosts"):
        begin(f"http://127.0.0.1:{server.port}", tmp_path)


def test_no_right_on_the_experiment_is_said(server, tmp_path, monkeypatch):
    client = MlflowClient(server.uri)
    with start_run(config(server.uri, experiment="theirs"), "test", str(tmp_path / "1"), {}):
        pass
    _make_user(server, "guest", "guests-password")
    assert client.get_experiment_by_name("theirs")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "guest")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guests-password")
    with (
        pytest.raises(UserError, match=r"no permission \(403\): ask its administrator"),
        start_run(config(server.uri, experiment="theirs"), "test", str(tmp_path / "2"), {}),
    ):
        pass


def _make_user(server: Server, name: str, password: str):
    from mlflow.server.auth.client import AuthServiceClient

    AuthServiceClient(server.uri).create_user(name, password)


def test_artifacts_that_cannot_be_written_are_found_at_the_start(server, tmp_path):
    aside = server.artifacts.with_name("aside")
    server.artifacts.rename(aside)
    server.artifacts.write_text("in the way")
    try:
        with pytest.raises(UserError, match=r"artifacts cannot be written .*artifacts-destination"):
            begin(server.uri, tmp_path)
    finally:
        server.artifacts.unlink()
        aside.rename(server.artifacts)
    run = read_run_id(str(tmp_path))
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as again:
        assert again.id == run  # the same run goes on


@pytest.mark.parametrize("dies_when", ["the run is made", "the reply is lost"])
def test_a_driver_that_dies_before_it_knows_its_run_leaves_no_second_one(
    server, tmp_path, monkeypatch, dies_when
):
    class Killed(BaseException):
        pass

    write, create, times = storage.write_json, MlflowClient.create_run, []

    def die_knowing(uri, value):
        if "run_id" in value:
            raise Killed
        write(uri, value)

    def lose_the_reply(self, *args, **settings):
        times.append(create(self, *args, **settings))
        raise ConnectionError("the reply is lost")

    with monkeypatch.context() as patch:
        if dies_when == "the run is made":
            patch.setattr(storage, "write_json", die_knowing)
            with pytest.raises(Killed):
                begin(server.uri, tmp_path)
        else:
            patch.setattr(MlflowClient, "create_run", lose_the_reply)
            with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}):
                pass
            assert len(times) == 1
    assert (read_run_id(str(tmp_path)) is None) == (dies_when == "the run is made")
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        pass
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("facevae").experiment_id
    made = client.search_runs([experiment], f"tags.`facevae.output` = '{tmp_path}'")
    assert [each.info.run_id for each in made] == [run.id.run_id]
    assert made[0].info.status == "FINISHED"


def test_a_run_that_was_deleted_is_not_written_to(server, tmp_path):
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        pass
    MlflowClient(server.uri).delete_run(run.id.run_id)
    with pytest.raises(UserError, match=r"was deleted: restore it there, or remove .*run\.json"):
        begin(server.uri, tmp_path)


def test_all_arrives_once_through_a_server_killed_and_started_again(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    settings = config(server.uri, system_metrics=True)
    step = 0
    with start_run(settings, "test", str(tmp_path), {"a": 1}, submission_id="j") as run:
        restarted = threading.Event()

        def restart():
            server.kill()
            time.sleep(1)
            server.start()
            restarted.set()

        other = threading.Thread(target=restart)
        other.start()
        while not restarted.is_set() or step % 10:
            step += 1
            run.metrics(step, {"loss": 1 / step, "steady": 1.0})
            if step % 100 == 1:
                run.image("faces", step, np.full((30, 60, 3), step % 256, np.uint8))
            time.sleep(0.05)
        other.join()
        run.tags({"late": "yes"})
    client = MlflowClient(server.uri)
    record = client.get_run(run.id.run_id)
    assert record.info.status == "FINISHED"
    assert record.data.params == {"a": "1"}
    tags = record.data.tags
    assert (tags["facevae.submission_id"], tags["facevae.output"], tags["late"]) == (
        "j",
        str(tmp_path),
        "yes",
    )
    assert points(client, run.id, "loss") == [(n, 1 / n) for n in range(1, step + 1)]
    assert points(client, run.id, "steady") == [(n, 1.0) for n in range(1, step + 1)]
    images = [file.path for file in client.list_artifacts(run.id.run_id, "images")]
    assert len(images) == 2 * len(range(1, step + 1, 100))
    cpu = [n for n, _ in points(client, run.id, "system/cpu_utilization_percentage")]
    assert len(cpu) >= 4, "measured on through the outage"
    assert cpu == sorted(set(cpu))
    said = capsys.readouterr().err.splitlines()
    assert sum("went away" in line for line in said) == 1
    assert sum("is back" in line for line in said) == 1


def test_a_run_that_goes_on_logs_no_point_and_no_image_twice(server, tmp_path):
    grid = np.zeros((4, 4, 3), np.uint8)

    def log(last: int):
        with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
            for step in range(1, last + 1):
                run.metrics(step, {"loss": step})
                run.metrics(step, {"other": step} if step % 2 else {})
                run.image("a/b", step, grid)
        return run.id

    assert log(2) == log(3)
    client, run = MlflowClient(server.uri), read_run_id(str(tmp_path))
    assert points(client, run, "loss") == [(n, n) for n in (1, 2, 3)]
    assert points(client, run, "other") == [(n, n) for n in (1, 3)]
    assert len(client.list_artifacts(run.run_id, "images")) == 6


def test_an_image_in_a_store_that_fails_for_a_moment_arrives(server, tmp_path):
    answers = [None, UnreachableError("cannot reach s3://b/face.png: check the network")]

    def load():
        if error := answers.pop():
            raise error
        return np.zeros((4, 4, 3), np.uint8)

    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        run.image("late", 7, load)
    assert answers == []
    assert len([*server.artifacts.rglob("late+step+7+*")]) == 2


def test_half_an_image_is_completed_under_its_name(server, tmp_path):
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        run.image("faces", 7, np.zeros((4, 4, 3), np.uint8))
    names = {path.name for path in server.artifacts.rglob("faces+step+7+*")}
    next(server.artifacts.rglob("faces+step+7+*.png")).unlink()
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        run.image("faces", 7, np.zeros((4, 4, 3), np.uint8))
    assert {path.name for path in server.artifacts.rglob("faces+step+7+*")} == names


def test_the_same_points_sent_twice_are_there_once(server, tmp_path):
    """What a lost reply leads to; MLflow's store drops exact duplicates."""
    with start_run(config(server.uri), "test", str(tmp_path), {"a": 1}) as run:
        send = run._client.log_batch

        def and_again(*arguments, **named):
            send(*arguments, **named)
            send(*arguments, **named)

        run._client.log_batch = and_again
        for step in range(3):
            run.metrics(step, {"loss": step})
    client = MlflowClient(server.uri)
    assert points(client, run.id, "loss") == [(0, 0), (1, 1), (2, 2)]


def test_a_server_that_stays_away_fails_the_run_at_its_end_and_the_work_is_named(
    tmp_path, monkeypatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    run = Run(RunId(uri, "0" * 32), config(uri, patience_seconds=1), "runs/x", started=0)
    run.metrics(1, {"loss": 1.0})
    with pytest.raises(UserError, match=r"1 s \(connection refused.*made is safe in runs/x"):
        run.flush()
    run.close()
