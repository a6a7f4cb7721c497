"""Places that the cluster's machines cannot see are refused before anything starts."""

import pytest

from facevae import storage
from facevae.errors import UserError
from facevae.verbs.places import check_places, sqlite_file


@pytest.fixture
def disk(monkeypatch):
    """Makes the file system of every path be of a kind."""

    def set_kind(kind: str) -> None:
        monkeypatch.setattr(storage, "file_system_type", lambda path: kind)

    return set_kind


@pytest.mark.parametrize("kind", ["ext4", "xfs", "overlay", "tmpfs", "unknown"])
def test_one_machines_own_disk_is_refused_on_several_nodes(disk, kind):
    disk(kind)
    places = {"--shards": "s3://bucket/faces", "--output": "/data/run"}
    with pytest.raises(UserError, match=rf"--output /data/run .*\({kind}\).*3 nodes.*s3://"):
        check_places(places, 3)
    check_places(places, 1)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.s3fs", "ceph", "gpfs"])
def test_network_file_systems_and_object_stores_are_seen_by_all(disk, kind):
    disk(kind)
    check_places({"--output": "/data/run", "--shards": "gs://bucket/x", "--images": None}, 3)


def test_the_uploaded_files_of_a_job_are_no_place_for_results():
    place = "/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/runs/train"
    with pytest.raises(UserError, match=r"--output .* which Ray deletes"):
        check_places({"--output": place}, 1)


def test_the_file_system_of_a_path_is_that_of_its_deepest_mount(tmp_path):
    assert storage.file_system_type("/proc/self") == "proc"
    assert storage.file_system_type(str(tmp_path / "not" / "yet")) != "unknown"


def test_sqlite_stores_have_a_file_and_servers_do_not():
    assert sqlite_file("sqlite:////data/mlflow.db") == "/data/mlflow.db"
    assert sqlite_file("http://127.0.0.1:5000") is None
