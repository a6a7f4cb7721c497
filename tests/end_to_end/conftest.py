"""One head node with token authentication for the tests that submit jobs to it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

TOKEN = "a-token-for-this-test-of-32-letters"


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A head node that takes jobs; the environment that its clients need."""
    binaries = Path(sys.executable).parent
    short = tempfile.mkdtemp(prefix="ray-")  # sockets allow paths of 107 characters only
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{binaries}:{os.environ['PATH']}",  # jobs say `python`
    }
    gcs, dashboard, agent = _free_ports(3)
    command = [
        binaries / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        "--num-cpus=2", "--object-store-memory=300000000", "--include-dashboard=true",
        f"--temp-dir={short}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    with (tmp_path_factory.mktemp("head") / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(address)
        yield environment | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        _end(process)
        shutil.rmtree(short, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """End the head and what it started; its raylet would take half a minute to give up workers."""
    processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    head.terminate()
    _, alive = psutil.wait_procs(processes, timeout=4)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    head.wait(60)


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; the defaults may be another cluster's."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(address: str) -> None:
    """Wait until the head takes jobs: its agent is the last to come up."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            nodes = requests.get(f"{address}/api/v0/nodes", headers=headers, timeout=5).json()
            if nodes["data"]["result"]["result"]:
                return
        except (requests.RequestException, KeyError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"no head node at {address}")
