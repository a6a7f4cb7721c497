"""A cluster as a small dashboard: tokens, addresses, refusals, broken connections; requests."""

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from ray.exceptions import AuthenticationError

from facevae.cli import parse
from facevae.commands.submit import read_options
from facevae.errors import UserError
from facevae.ray_cluster.nodes import Node
from facevae.submission import client as module
from facevae.submission import follow as following
from facevae.submission.client import Cluster, cluster_address, job_request
from facevae.submission.follow import exit_code, follow

TOKEN = "a-token-for-this-test-of-32-letters"
LOG = [f"line {number}: ä\n" for number in range(40)]


class Dashboard:
    """The dashboard's answers; a log connection breaks after each of `breaks` lines."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.breaks: list[int] = []
        self.failures: list[int] = []
        self.silent = False
        self.token: str | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "")
        if self.token is not None and sent != f"Bearer {self.token}":
            return web.Response(status=403 if sent else 401, text="no")
        path = request.path
        self.received.append((request.method, path, await request.read()))
        if self.failures and path != "/api/version":
            return web.Response(status=self.failures.pop(0), text="Traceback:\n  x\nError: full.\n")
        if path == "/api/version":
            return web.json_response({"version": "4", "ray_version": "2.60.0"})
        if path.startswith("/api/packages/"):
            return web.Response(status=404 if request.method == "GET" else 200)
        if path == "/api/v0/nodes":
            assert request.query["filter_values"] == "ALIVE"
            return web.json_response({"result": True, "msg": "", "data": {"result": NODES}})
        if path == "/api/jobs/" and request.method == "POST":
            return web.json_response({"job_id": "x", "submission_id": "x"})
        if path == "/api/jobs/":
            return web.json_response(list(self.jobs.values()))
        name, _, what = path.removeprefix("/api/jobs/").partition("/")
        if name not in self.jobs:
            return web.Response(status=404, text=f"Job {name} does not exist")
        if what == "logs":
            return web.json_response({"logs": "".join(LOG)})
        if what == "logs/tail":
            return await self.tail(request, name)
        return web.json_response(self.jobs[name])

    async def tail(self, request: web.Request, name: str) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        stop = self.breaks.pop(0) if self.breaks else len(LOG)
        for line in LOG[:stop]:
            await socket.send_str(line)
        if self.silent:
            await asyncio.sleep(0.5)
        if stop < len(LOG) and stop % 2:
            request.transport.abort()  # as when a proxy falls over; else as when it closes politely
        elif stop == len(LOG):
            self.jobs[name] |= {"status": "SUCCEEDED", "driver_exit_code": 0}
        return socket


def node(**resources: float) -> dict[str, Any]:
    return {
        "node_id": "1", "node_ip": "1", "is_head_node": False, "state": "ALIVE", "node_name": "1",
        "state_message": None, "resources_total": resources, "labels": {}, "start_time_ms": 0,
        "end_time_ms": 0,
    }  # fmt: skip


NODES = {
    "total": 2, "num_after_truncation": 2, "num_filtered": 2, "partial_failure_warning": "",
    "warnings": None, "result": [node(CPU=4.0), node(CPU=2.0, GPU=1.0)],
}  # fmt: skip


def running(name: str, start: int = 1_000) -> dict[str, Any]:
    return {
        "type": "SUBMISSION", "submission_id": name, "status": "RUNNING", "entrypoint": "x",
        "start_time": start, "metadata": {"facevae.verb": "train"},
    }  # fmt: skip


@pytest.fixture
def dashboard() -> Iterator[tuple[Dashboard, str]]:
    """A dashboard in a thread, and its address."""
    fake, loop, ready = Dashboard(), asyncio.new_event_loop(), threading.Event()
    address = []

    async def start() -> web.AppRunner:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", fake.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    yield fake, address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def cluster(dashboard, monkeypatch) -> Cluster:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://overridden:1")
    monkeypatch.setattr(following, "RETRY_SECONDS", 0)
    return Cluster(dashboard[1])


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A source folder, which is the current one."""
    folder = tmp_path / "sources"
    for name in ("jobs/train.py", "configs/small.yaml", "runs/old.yaml", "private/x.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("loss: {beta: 0.7}\n")
    (folder / ".gitignore").write_text("runs/\n")
    (folder / "private" / ".rayignore").write_text("*.yaml\n")
    (tmp_path / "outside.yaml").write_text("loss: {beta: 0.7}\n")
    monkeypatch.chdir(folder)
    return folder


def request(*words: str) -> dict[str, Any]:
    """What is sent for a training with these options."""
    output = [] if "--output" in words else ["--output", "/shared/run"]
    options = read_options(["train", *words, *output])
    return job_request(options, parse("train", options.arguments))


def test_nodes_are_those_that_live_and_those_that_are_told_of(cluster, monkeypatch):
    assert cluster.nodes() == [Node(4, 0), Node(2, 1)]
    groups = {"gpu-spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 1}}
    monkeypatch.setenv("FACEVAE_NODE_GROUPS", json.dumps(groups))
    assert cluster.nodes()[2:] == [Node(8, 1, pool="gpu", is_here=False)]


def test_a_job_is_sent_with_its_folder_and_without_secrets(
    dashboard, cluster, sources, monkeypatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    cluster.submit_job(**request("--submission_id", "train-1"))
    bodies = {(method, path.split("_pkg")[0]): body for method, path, body in dashboard[0].received}
    job = json.loads(bodies["POST", "/api/jobs/"])
    assert job["entrypoint"] == "python jobs/train.py --output /shared/run"
    assert job["submission_id"] == "train-1"
    assert job["metadata"]["facevae.verb"] == "train"
    assert job["metadata"]["facevae.output"] == "/shared/run"
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    package = bodies["PUT", "/api/packages/gcs/_ray"]
    assert b"configs/small.yaml" in package
    for name in (b"runs/old.yaml", b"private/x.yaml"):
        assert name not in package
    for body in bodies.values():
        assert b"very-secret" not in body
        assert TOKEN.encode() not in body


def test_unknown_jobs_and_servers_in_trouble_differ(dashboard, cluster):
    with pytest.raises(UserError, match="knows no job nosuch; see facevae submit --list"):
        cluster.job("nosuch")
    dashboard[0].failures = [502]
    with pytest.raises(module.FAULTS):
        cluster.job("nosuch")
    dashboard[0].failures = [403]
    with pytest.raises(AuthenticationError):
        cluster.job("nosuch")


def test_a_driver_that_was_not_submitted_is_no_job_of_ours(dashboard, cluster):
    dashboard[0].jobs["c"] = running("c") | {"type": "DRIVER", "submission_id": None}
    with pytest.raises(UserError, match="knows no job c"):
        cluster.job("c")


def test_broken_connections_lose_and_repeat_nothing(dashboard, cluster):
    dashboard[0].jobs["train-1"] = running("train-1")
    dashboard[0].breaks = [7, 12, 3, 0, 31]
    written: list[str] = []
    assert exit_code(follow(cluster, "train-1", written.append)) == 0
    assert "".join(written) == "".join(LOG)
    assert not dashboard[0].breaks


def test_a_connection_that_says_nothing_is_made_anew(dashboard, cluster, monkeypatch):
    monkeypatch.setattr(following, "SILENCE_SECONDS", 0.05)
    dashboard[0].jobs["train-1"] = running("train-1")
    dashboard[0].breaks, dashboard[0].silent = [6], True
    written: list[str] = []
    follow(cluster, "train-1", written.append)
    assert "".join(written) == "".join(LOG)


@pytest.mark.parametrize(
    ("content", "variable", "expected"),
    [
        (TOKEN, "RAY_AUTH_TOKEN", None),
        (f"{TOKEN}\n", "RAY_AUTH_TOKEN_PATH", None),
        (TOKEN, "HOME", "Authentication required"),  # it is that of this machine's own cluster
        (None, "RAY_AUTH_TOKEN_PATH", "cannot be opened"),
        ("two\nlines", "RAY_AUTH_TOKEN", "holds no token: expected one word"),
    ],
)
def test_the_token_is_found_without_a_mode_and_is_not_shown(
    dashboard, tmp_path, content, variable, expected
):
    dashboard[0].token = TOKEN
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    if content is not None:
        file.write_text(content)
    value = {"RAY_AUTH_TOKEN": content, "RAY_AUTH_TOKEN_PATH": str(file), "HOME": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    # Ray reads the mode once in a process.
    done = subprocess.run(
        [sys.executable, "-m", "facevae.cli", "submit", "--list", "--address", dashboard[1]],
        env=environment | {variable: value[variable]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if expected is None else 2), done.stderr
    if expected is not None:
        assert done.stderr.count("\n") == 1
        assert expected in done.stderr
    assert content is None or content.strip() not in done.stdout + done.stderr
    assert content is None or "two" not in done.stderr


@pytest.mark.parametrize("path", ["/api/jobs", "/nosuch"])
def test_a_server_that_is_no_dashboard_is_told(dashboard, path):
    with pytest.raises(UserError, match="no Ray cluster answers at"):
        Cluster(f"{dashboard[1]}{path}")


def test_an_address_that_does_not_answer_is_one_quick_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address} .*: start it"):
        Cluster(address)
    assert time.monotonic() - start < 3


def test_an_address_that_says_nothing_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(UserError, match="no Ray cluster answers"),
    ):
        Cluster(f"http://127.0.0.1:{mute.getsockname()[1]}")


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        (None, {"RAY_ADDRESS": "https://h"}, "https://h"),
        (None, {"RAY_ADDRESS": "https://h", "RAY_API_SERVER_ADDRESS": "http://a:1"}, "http://a:1"),
        ("b:2", {"RAY_API_SERVER_ADDRESS": "http://a:1"}, "http://b:2"),
        ("https://b/ray/", {}, "https://b/ray"),
    ],
)
def test_the_address_is_the_first_that_is_given(option, environment, expected):
    assert cluster_address(option, environment) == expected


@pytest.mark.parametrize("address", ["ray://h:10001", "http://", "anyscale://x"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(UserError, match="expected a dashboard's address such as http://HEAD:8265"):
        cluster_address(address, {})


def test_the_command_is_that_of_ray_job_submit(sources):
    made = request("--config", "configs/small.yaml", "--loss.layers", "[conv1, conv2]")
    assert shlex.split(made["entrypoint"]) == [
        "python", "jobs/train.py", "--config=configs/small.yaml",
        "--loss.layers", "[conv1, conv2]", "--output", "/shared/run",
    ]  # fmt: skip
    assert made["runtime_env"]["working_dir"] == str(sources)


def test_a_hyphen_in_a_command_is_none_in_its_script(sources):
    (sources / "jobs" / "import_facenet.py").write_text("")
    words = ["import-facenet", "--checkpoint", "s3://b/model.ckpt-1", "--output", "s3://b/out"]
    options = read_options(words)
    made = job_request(options, parse("import-facenet", options.arguments))
    assert made["entrypoint"].startswith("python jobs/import_facenet.py --checkpoint s3://b/")
    assert made["submission_id"].startswith("import-facenet-")


def test_files_of_settings_are_named_from_the_uploaded_folder(sources, monkeypatch):
    whole = str(sources / "configs" / "small.yaml")
    assert "--config=configs/small.yaml" in request(f"--config={whole}")["entrypoint"]
    monkeypatch.chdir(sources / "configs")
    moved = request("--config", "small.yaml", "--working_dir", "..")
    assert "--config=configs/small.yaml" in moved["entrypoint"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--config ../outside.yaml", "would not be uploaded: it lies outside"),
        ("--config=runs/old.yaml", "would not be uploaded"),
        ("--config private/x.yaml", "would not be uploaded"),
        ("--output runs/x", "output runs/x is relative"),
        ("--output file://x", "output file://x is relative"),
    ],
)
def test_what_the_job_would_not_find_or_would_lose_is_refused(sources, words, expected):
    with pytest.raises(UserError, match=expected):
        request(*words.split())


def test_a_folder_that_cannot_be_sent_is_refused(sources):
    os.mkfifo(sources / "pipe")
    with pytest.raises(UserError, match="pipe is a named pipe, which cannot be sent"):
        request()


def test_a_link_that_leads_back_is_not_sent(dashboard, cluster, sources):
    (sources / "self").symlink_to(".")
    cluster.submit_job(**request())
    (package,) = [body for method, path, body in dashboard[0].received if method == "PUT"]
    assert b"jobs/train.py" in package
    assert b"self/" not in package


def test_git_ignored_files_are_sent_where_ray_is_told_to(sources, monkeypatch):
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert "--config=runs/old.yaml" in request("--config=runs/old.yaml")["entrypoint"]


def test_a_folder_without_the_job_is_refused(sources):
    with pytest.raises(UserError, match=r"has no jobs/train\.py: give facevae's source folder"):
        request("--working_dir", "configs")


@pytest.mark.parametrize(
    "output", ["s3://bucket/x", "/x", "file:///x", "file:/x", "file://localhost/x"]
)
def test_an_output_that_all_nodes_find_is_fine(sources, output):
    assert request("--output", output)["metadata"]["facevae.output"] == output


def test_names_are_readable_and_differ(sources):
    names = {request()["submission_id"] for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch(r"train-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in names)
    assert request("--submission_id", "mine")["submission_id"] == "mine"


def test_the_job_is_found_again_by_its_metadata(sources):
    assert "facevae.commit" not in request()["metadata"]
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    metadata = request("--tracking.experiment", "faces")["metadata"]
    assert metadata["facevae.verb"] == "train"
    assert metadata["facevae.experiment"] == "faces"
    assert re.fullmatch("[0-9a-f]{40}", metadata["facevae.commit"])
    (sources / "jobs" / "train.py").write_text("changed")
    assert request()["metadata"]["facevae.commit"] == metadata["facevae.commit"] + "-dirty"
