"""Ray's clients against a small dashboard: tokens, addresses, refusals, connections that break."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from facevae.errors import UserError
from facevae.runtime import Node
from facevae.submission import cluster as module
from facevae.submission import follow as following
from facevae.submission.cluster import (
    Cluster,
    UnreachableError,
    auth_headers,
    cluster_address,
)
from facevae.submission.follow import follow
from facevae.submission.request import JobRequest

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

    async def answer(self, request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "")
        if sent != f"Bearer {TOKEN}":
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


def node(state: str, **resources: float) -> dict[str, Any]:
    return {
        "node_id": "1", "node_ip": "1", "is_head_node": False, "state": state, "node_name": "1",
        "state_message": None, "resources_total": resources, "labels": {}, "start_time_ms": 0,
        "end_time_ms": 0,
    }  # fmt: skip


NODES = {
    "total": 3, "num_after_truncation": 3, "num_filtered": 3, "partial_failure_warning": "",
    "warnings": None,
    "result": [node("ALIVE", CPU=4.0), node("DEAD", CPU=8.0), node("ALIVE", CPU=2.0, GPU=1.0)],
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


@pytest.fixture(autouse=True)
def own_mode(monkeypatch) -> None:
    """Ray sets the mode in the processes that it starts a cluster from, as other tests do."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


@pytest.fixture
def cluster(dashboard, monkeypatch) -> Cluster:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://overridden:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(following, "RETRY_SECONDS", 0)
    return Cluster(dashboard[1])


def test_nodes_are_those_that_live(cluster):
    assert cluster.nodes() == [Node(4, 0), Node(2, 1)]


def test_a_job_is_sent_with_its_folder_and_without_secrets(
    dashboard, cluster, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    (tmp_path / "a.txt").write_text("a")
    cluster.submit(JobRequest("train-1", "python jobs/train.py", tmp_path, {"facevae.verb": "t"}))
    bodies = {(method, path.split("_pkg")[0]): body for method, path, body in dashboard[0].received}
    job = json.loads(bodies["POST", "/api/jobs/"])
    assert job["entrypoint"] == "python jobs/train.py"
    assert job["submission_id"] == "train-1"
    assert job["metadata"] == {"facevae.verb": "t"}
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    assert bodies["PUT", "/api/packages/gcs/_ray"].startswith(b"PK")
    for body in bodies.values():
        assert b"very-secret" not in body
        assert TOKEN.encode() not in body


def test_a_job_that_the_cluster_refuses_is_one_line(dashboard, cluster, tmp_path):
    dashboard[0].failures = [200, 500]
    with pytest.raises(UserError, match=r"refuses the job: Error: full$"):
        cluster.submit(JobRequest("train-1", "x", tmp_path, {}))


def test_unknown_jobs_and_servers_in_trouble_differ(dashboard, cluster):
    assert cluster.job("nosuch") is None
    dashboard[0].failures = [502]
    with pytest.raises(UnreachableError):
        cluster.job("nosuch")
    dashboard[0].failures = [403]
    with pytest.raises(UserError, match="refuses the token now"):
        cluster.job("nosuch")
    dashboard[0].failures = [500]
    assert cluster.log("nosuch") is None


def test_jobs_are_listed_newest_first(dashboard, cluster):
    dashboard[0].jobs = {name: running(name, start) for name, start in (("a", 1), ("b", 2))}
    dashboard[0].jobs["c"] = running("c") | {"type": "DRIVER", "submission_id": None}
    assert [job.submission_id for job in cluster.jobs()] == ["b", "a"]
    assert cluster.job("c") is None


def test_broken_connections_lose_and_repeat_nothing(dashboard, cluster):
    dashboard[0].jobs["train-1"] = running("train-1")
    dashboard[0].breaks = [7, 12, 3, 0, 31]
    written: list[str] = []
    assert follow(cluster, "train-1", written.append).exit_code == 0
    assert "".join(written) == "".join(LOG)
    assert not dashboard[0].breaks


def test_a_connection_that_says_nothing_is_made_anew(dashboard, cluster, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    dashboard[0].jobs["train-1"] = running("train-1")
    dashboard[0].breaks, dashboard[0].silent = [6], True
    written: list[str] = []
    follow(cluster, "train-1", written.append)
    assert "".join(written) == "".join(LOG)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "wants a token: set RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "another"}, "refuses the token: set RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}, "and RAY_AUTH_MODE=token"),
    ],
)
def test_tokens_are_checked_first(dashboard, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        Cluster(dashboard[1])


def test_a_server_that_is_no_dashboard_or_not_yet_one_is_told(dashboard, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(UserError, match=r"does not answer as the dashboard .* \(status 404\)"):
        Cluster(f"{dashboard[1]}/api/jobs")


def test_an_address_that_does_not_answer_is_one_quick_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}: start it"):
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


def test_the_token_is_found_as_ray_finds_it(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    both = {"RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_TOKEN": "given"}
    assert auth_headers({}) == {}
    assert auth_headers(both) == {"Authorization": "Bearer given"}
    assert auth_headers(both | {"RAY_AUTH_MODE": "disabled"}) == {}
    assert auth_headers({"RAY_AUTH_TOKEN_PATH": str(file)}) == {"Authorization": "Bearer from-file"}
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="RAY_AUTH_MODE is token and there is none"):
        auth_headers({"RAY_AUTH_MODE": "token"})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home")
    assert auth_headers({"RAY_AUTH_MODE": "token"}) == {"Authorization": "Bearer of-home"}
    assert auth_headers({}) == {}


@pytest.mark.parametrize("content", [None, "", "two\nlines", "ümlaut"])
def test_a_token_that_cannot_be_one_is_not_shown(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=str(file)) as caught:
        auth_headers({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert not content or content not in str(caught.value)
