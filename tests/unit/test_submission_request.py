"""What is sent for a job names only what the cluster can find."""

import re
import shlex
import subprocess

import pytest

from facevae.cli import parse
from facevae.errors import UserError
from facevae.submission.request import JobRequest, job_request


@pytest.fixture
def sources(tmp_path, monkeypatch):
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


def request(*words: str, working_dir: str = ".", submission_id: str | None = None) -> JobRequest:
    arguments = list(words)
    if not any(word.startswith("--output") for word in words):
        arguments += ["--output", "/shared/run"]
    return job_request("train", arguments, parse("train", arguments), working_dir, submission_id)


def test_the_command_is_that_of_ray_job_submit(sources):
    made = request("--config", "configs/small.yaml", "--loss.layers", "[conv1, conv2]")
    assert shlex.split(made.entrypoint) == [
        "python", "jobs/train.py", "--config=configs/small.yaml",
        "--loss.layers", "[conv1, conv2]", "--output", "/shared/run",
    ]  # fmt: skip
    assert made.working_dir == sources


def test_files_of_settings_are_named_from_the_uploaded_folder(sources, monkeypatch):
    whole = str(sources / "configs" / "small.yaml")
    assert "--config=configs/small.yaml" in request(f"--config={whole}").entrypoint
    monkeypatch.chdir(sources / "configs")
    assert "--config=configs/small.yaml" in request("--config", "small.yaml", working_dir="..")[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--config ../outside.yaml", "lies outside"),
        ("--config=runs/old.yaml", "would not be uploaded: .gitignore or .rayignore"),
        ("--config private/x.yaml", "would not be uploaded"),
        ("--output runs/x", "output runs/x is relative"),
        ("--output file://x", "output file://x is relative"),
    ],
)
def test_what_the_job_would_not_find_or_would_lose_is_refused(sources, words, expected):
    with pytest.raises(UserError, match=expected):
        request(*words.split())


def test_git_ignored_files_are_sent_where_ray_is_told_to(sources, monkeypatch):
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert "--config=runs/old.yaml" in request("--config=runs/old.yaml").entrypoint


def test_a_folder_without_the_job_is_refused(sources):
    with pytest.raises(UserError, match=r"has no jobs/train\.py: give facevae's source folder"):
        request(working_dir="configs")


def test_an_output_at_a_uri_is_fine(sources):
    assert request("--output", "s3://bucket/x").metadata["facevae.output"] == "s3://bucket/x"


def test_names_are_readable_and_differ(sources):
    names = {request().submission_id for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch(r"train-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in names)
    assert request(submission_id="mine").submission_id == "mine"


def test_the_job_is_found_again_by_its_metadata(sources):
    assert "facevae.commit" not in request().metadata
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    metadata = request("--tracking.experiment", "faces").metadata
    assert metadata["facevae.verb"] == "train"
    assert metadata["facevae.experiment"] == "faces"
    assert re.fullmatch("[0-9a-f]{40}", metadata["facevae.commit"])
    (sources / "jobs" / "train.py").write_text("changed")
    assert request().metadata["facevae.commit"] == metadata["facevae.commit"] + "-dirty"


def test_nothing_of_the_environment_is_sent(sources, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    assert "very-secret" not in str(request())
