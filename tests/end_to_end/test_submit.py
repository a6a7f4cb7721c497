"""`facevae submit` against a head with token authentication, as a user runs it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

REPOSITORY = Path(__file__).parents[2]
FACEVAE = Path(sys.executable).with_name("facevae")


@pytest.fixture
def client(head) -> dict[str, str]:
    """A user's environment: address and token, no mode."""
    return {key: value for key, value in head.items() if key != "RAY_AUTH_MODE"}


def submit(environment, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FACEVAE, "submit", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def started(environment, *words: str) -> subprocess.Popen[str]:
    """A client that has begun to show a job's log."""
    process = subprocess.Popen(
        [FACEVAE, "submit", *words],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Running entrypoint for job"):
            return process
    raise AssertionError(process.stderr.read())


def test_a_job_is_followed_to_its_end(client, tmp_path):
    output = tmp_path / "shards"
    words = ["shards", "--output", str(output), "--drawn.count", "60", "--submission_id", "first"]
    job = submit(client | {"AWS_SECRET_ACCESS_KEY": "very-secret"}, *words)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "images 60\n" in job.stdout
    assert "shards: 60/60 images" in job.stdout
    assert job.stderr.endswith("job first succeeded\n")
    assert (output / "manifest.json").is_file()
    assert "very-secret" not in job.stdout
    again = submit(client, *words)
    assert again.returncode == 2
    assert "Job with submission_id first already exists" in again.stderr
    listed = submit(client, "--list")
    assert listed.returncode == 0
    (row,) = [line.split() for line in listed.stdout.splitlines() if line.startswith("first ")]
    assert row[1:3] == ["SUCCEEDED", "shards"]
    assert row[-1] == str(output)
    attached = submit(client, "--attach", "first")
    assert attached.returncode == 0
    assert attached.stdout == job.stdout


def test_a_job_outlives_its_client_and_is_stopped(client, tmp_path):
    process = started(
        client, "shards", "--output", str(tmp_path / "x"), "--drawn.count", "1000000",
        "--submission-id", "slow",
    )  # fmt: skip
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "job slow goes on; --attach slow follows it, --stop slow stops it" in said
    attached = started(client, "--attach", "slow")
    stopped = submit(client, "--stop", "slow")
    assert stopped.returncode == 0
    assert stopped.stderr == "job slow was stopped\n"
    _, said = attached.communicate(timeout=60)
    assert attached.returncode == 143
    assert said == "job slow was stopped\n"


def test_the_exit_code_is_the_drivers(client, tmp_path):
    job = submit(
        client, "shards", "--output", str(tmp_path / "x"), "--images", "/nowhere",
        "--attributes", "/nowhere.txt",
    )  # fmt: skip
    assert job.returncode == 2
    assert "facevae shards: " in job.stdout
    assert "failed with exit code 2" in job.stderr


def send(environment, submission_id: str, entrypoint: str, **runtime_env) -> None:
    """A job that is not a command of facevae."""
    requests.post(
        f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/",
        headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"},
        json={
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "runtime_env": runtime_env,
        },
        timeout=60,
    ).raise_for_status()


def test_a_driver_knows_its_submission(client):
    code = "from facevae.ray_cluster.this_job import submission_id; print('I am', submission_id())"
    send(client, "named", f'python -c "{code}"')
    job = submit(client, "--attach", "named")
    assert job.returncode == 0
    assert "I am named\n" in job.stdout


def test_a_job_that_cannot_start_shows_rays_words(client):
    package = "gcs://_ray_pkg_0123456789abcdef.zip"
    send(client, "stillborn", "true", working_dir=package)
    job = submit(client, "--attach", "stillborn")
    assert job.returncode == 1
    assert "job stillborn failed: " in job.stderr
    assert package in job.stderr


@pytest.mark.parametrize(
    ("changes", "words", "expected"),
    [
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "", "no Ray cluster answers at"),
        (
            {"RAY_AUTH_TOKEN": "another-token-that-is-not-the-heads"},
            "",
            "Invalid authentication token",
        ),
        ({"RAY_AUTH_TOKEN": ""}, "", "Missing authentication token"),
        ({}, "--loss.betta 1", "did you mean --loss.beta"),
        ({}, "--config /nowhere.yaml", "no such file of settings"),
        (
            {},
            "--config configs/quickstart.yaml --scaling.workers 8",
            "do not fit on 1 node(s) with 2 CPUs",
        ),
    ],
)
def test_mistakes_are_one_quick_line(client, changes, words, expected):
    start = time.monotonic()
    job = submit(
        client | changes, "train", "--output", "/tmp/x", "--submission_id", "never", *words.split()
    )
    assert time.monotonic() - start < 20
    assert job.returncode == 2
    assert job.stdout == ""
    assert job.stderr.count("\n") == 1
    assert expected in job.stderr


def test_nothing_was_sent_of_what_was_mistaken(client):
    never = submit(client, "--attach", "never")
    assert never.returncode == 2
    assert "never" in never.stderr
