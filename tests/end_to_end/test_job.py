"""`ray job submit` against a head with token authentication, as the README shows it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests

REPOSITORY = Path(__file__).parents[2]
# Beside the defaults, and not where another cluster's ports would be.
PORT, DASHBOARD = 26379, 28265


@pytest.fixture
def head(tmp_path):
    """A local head node; the environment that its clients need."""
    ray = Path(sys.executable).with_name("ray")
    short = tempfile.mkdtemp(prefix="ray-")  # sockets allow paths of 107 characters only
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-for-this-test-of-32-letters",
    }
    command = [
        ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={PORT}",
        f"--dashboard-port={DASHBOARD}", "--num-cpus=2", "--object-store-memory=300000000",
        "--include-dashboard=true", f"--temp-dir={short}",
    ]  # fmt: skip
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD}"}
    process.terminate()
    process.wait(60)
    shutil.rmtree(short, ignore_errors=True)


def submit(environment, *words: str) -> subprocess.CompletedProcess[str]:
    ray = Path(sys.executable).with_name("ray")
    return subprocess.run(
        [ray, "job", "submit", "--working-dir", str(REPOSITORY), "--", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_a_training_job_is_submitted_and_succeeds(head, tmp_path):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            requests.get(head["RAY_API_SERVER_ADDRESS"], timeout=2)
            break
        except requests.RequestException:
            time.sleep(1)
    output = tmp_path / "run"
    job = submit(
        head, sys.executable, "jobs/train.py", "--config", "configs/quickstart.yaml",
        "--output", str(output), "--training.steps", "8", "--training.warmup_steps", "2",
        "--drawn.count", "400",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-3000:]
    assert (output / "model" / "model.safetensors").is_file()
    refused = submit(
        head | {"RAY_AUTH_TOKEN": "another-token-that-is-not-the-heads"}, sys.executable, "-V"
    )
    assert refused.returncode != 0
