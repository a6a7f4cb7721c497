"""What Ray is started with: folders whose names it can use, on any machine."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray.exceptions import AuthenticationError

from facevae.errors import UserError
from facevae.ray_cluster import connect as module
from facevae.ray_cluster.connect import SOCKET, SOCKET_BYTES, connect, shorten_temporary_folder

ROOM = SOCKET_BYTES - len(SOCKET)


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "")  # restored after the test, whatever is set in it
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("given", ["/scratch/", "/ö"])
def test_a_long_folder_for_temporary_files_is_left_for_a_short_one(monkeypatch, name, given):
    """Slurm's is one for each job."""
    monkeypatch.setenv(name, given * ROOM)
    shorten_temporary_folder()
    assert len(get_default_ray_temp_dir()) < 30
    assert os.environ[name] == given * ROOM or name == "RAY_TMPDIR"  # all else goes on there


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_one_that_is_short_enough_stays(monkeypatch, name):
    folder = "/" + "x" * (ROOM - 1)
    monkeypatch.setenv(name, folder)
    shorten_temporary_folder()
    assert get_default_ray_temp_dir() == f"{folder}/ray"
    assert len(folder + SOCKET) == SOCKET_BYTES
    monkeypatch.setenv(name, folder + "x")
    shorten_temporary_folder()
    assert get_default_ray_temp_dir() == "/tmp/ray"


def test_ray_files_of_another_user_are_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr(module, "SHORT_FOLDER", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "ray")
    monkeypatch.setenv("TMPDIR", "/x" * ROOM)
    shorten_temporary_folder()
    assert os.environ["RAY_TMPDIR"] == f"{tmp_path}/ray-{os.getuid()}"


def test_no_short_folder_is_one_line(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("TMPDIR", "/x" * ROOM)
    with pytest.raises(UserError, match=rf"^TMPDIR /x.* set RAY_TMPDIR to a folder of {ROOM} char"):
        shorten_temporary_folder()


@pytest.fixture
def cluster(monkeypatch) -> Mock:
    """A cluster that answers; returns what attaches to it."""
    attach = Mock()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(module, "check_address", Mock())
    monkeypatch.setattr(ray, "init", attach)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return attach


def test_a_dead_cluster_is_found_before_ray_waits_for_it(cluster, monkeypatch):
    monkeypatch.setattr(module, "check_address", Mock(side_effect=UserError("no cluster answers")))
    with pytest.raises(UserError, match="no cluster answers"):
        connect()
    cluster.assert_not_called()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9\n" + "x" * 999),
        ConnectionError("Failed to connect to GCS"),
        AuthenticationError("Token authentication is enabled but no token was found"),
    ],
)
def test_a_cluster_that_does_not_take_this_process_is_one_line(cluster, error):
    cluster.side_effect = error
    expected = r"^cannot attach to RAY_ADDRESS head:6379 \(.*\): start the cluster, correct"
    with pytest.raises(UserError, match=expected) as refused:
        connect()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_relative_paths_of_the_environment_hold_in_processes_that_run_elsewhere(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, value in {"TORCH_HOME": "cache", "HF_HOME": "/hub", "XDG_CACHE_HOME": ""}.items():
        monkeypatch.setenv(name, value)
    connect()
    assert os.environ["TORCH_HOME"] == str(tmp_path / "cache")
    assert (os.environ["HF_HOME"], os.environ["XDG_CACHE_HOME"]) == ("/hub", "")
