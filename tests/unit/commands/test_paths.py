"""Paths that the cluster's machines cannot see are refused before anything starts."""

import pytest

from facevae.cli import parse
from facevae.commands.paths import check_paths, paths_of, with_absolute_paths
from facevae.errors import UserError
from facevae.runs import storage


@pytest.fixture
def disk(monkeypatch):
    """Makes the file system of every path be of a kind."""

    def set_kind(kind: str) -> None:
        monkeypatch.setattr(storage, "file_system_type", lambda path: kind)

    return set_kind


@pytest.mark.parametrize("kind", ["ext4", "xfs", "overlay", "tmpfs", "unknown"])
def test_one_machines_own_disk_is_refused_on_several_nodes(disk, kind):
    disk(kind)
    paths = {"--shards": "s3://bucket/faces", "--output": "/data/run"}
    with pytest.raises(UserError, match=rf"--output /data/run .*\({kind}\).*3 nodes.*s3://"):
        check_paths(paths, 3)
    check_paths(paths, 1)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.s3fs", "ceph", "gpfs"])
def test_network_file_systems_and_object_stores_are_seen_by_all(disk, kind):
    disk(kind)
    check_paths({"--output": "/data/run", "--shards": "gs://bucket/x", "--images": None}, 3)


def test_results_do_not_go_into_the_uploaded_files_of_a_job():
    path = "/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg_1/runs/train"
    with pytest.raises(UserError, match=r"--output .* which Ray deletes"):
        check_paths({"--output": path}, 1)


def test_the_file_system_of_a_path_is_that_of_its_deepest_mount(tmp_path):
    assert storage.file_system_type("/proc/self") == "proc"
    assert storage.file_system_type(str(tmp_path / "not" / "yet")) != "unknown"


def test_the_paths_of_several_sources_are_absolute_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "--sources",
        "[{name: a, images: faces, attributes: l.txt}, {name: b, images: s3://b/f/}]",
    ]
    config = with_absolute_paths(parse("shards", words))
    assert [(each.images, each.attributes) for each in config.sources] == [
        (f"{tmp_path}/faces", f"{tmp_path}/l.txt"),
        ("s3://b/f", None),
    ]
    paths = paths_of(config)
    assert paths["images of --sources a"] == f"{tmp_path}/faces"
    with pytest.raises(UserError, match="is on one machine's own disk"):
        check_paths({name: path for name, path in paths.items() if "sources" in name}, 3)


def test_the_paths_of_training_are_all_that_its_workers_read_and_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--output", "run", "--images", "faces", "--attributes", "labels.txt",
             "--loss.network", "inception_resnet_v1", "--loss.layers", "[Conv2d_1a_3x3]",
             "--loss.weights", "facenet.pt"]  # fmt: skip
    here = str(tmp_path)
    assert paths_of(parse("train", words)) == {
        "--output": f"{here}/run",
        "--shards": None,
        "--images": f"{here}/faces",
        "--loss.weights": f"{here}/facenet.pt",
        "--tracking.uri": f"{here}/run/mlflow.db",
    }
    words = ["--shards", "s3://b/faces", "--tracking.uri", "http://mlflow:5000"]
    paths = paths_of(parse("train", words))
    assert (paths["--shards"], paths["--tracking.uri"]) == ("s3://b/faces", None)
    assert paths["--loss.weights"] is None


SPELLINGS = ["{}/x", "{}/x/", "x", "./x/.", "file://{}/x", "{}/y/../x"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_path_is_recorded_in_one_spelling_whatever_the_users(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    one, given = str(tmp_path / "x"), spelling.format(tmp_path)
    facenet = ["--loss.network", "inception_resnet_v1", "--loss.layers", "[Conv2d_1a_3x3]"]
    train = parse(
        "train",
        [
            *("--shards", given, "--output", given, "--init_from", given),
            *facenet,
            f"--loss.weights={given}",
        ],
    )
    train = with_absolute_paths(train)
    assert (train.shards, train.output, train.init_from, train.images) == (one, one, one, None)
    if not given.startswith("file:"):  # weights are a file of this machine, never a URI
        assert train.loss.weights == one
    words = [f"--{name}={given}" for name in ("images", "attributes", "partition", "identities")]
    source = with_absolute_paths(parse("shards", words))
    assert (source.images, source.attributes, source.partition, source.identities) == (one,) * 4
    edit = with_absolute_paths(parse("edit", ["--model", given, "--vectors", given]))
    assert (edit.model, edit.vectors) == (one, one)


def test_what_is_no_path_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in ("runs:/1234/model", "models:/faces@best"):
        words = ["--model", model, "--shards", "s3://bucket/x/"]
        config = with_absolute_paths(parse("attributes", words))
        assert (config.model, config.shards) == (model, "s3://bucket/x")
        train = with_absolute_paths(parse("train", ["--init_from", model]))
        assert train.init_from == model
    assert with_absolute_paths(parse("train", [])).loss.weights == "vggface2"


def test_the_checkpoint_of_the_original_is_a_path_and_the_name_of_its_model_is_none(monkeypatch):
    monkeypatch.chdir("/")
    words = ["--checkpoint", "vae/model.ckpt-1", "--vectors", "vae", "--model", "dfc_vae"]
    found = with_absolute_paths(parse("import-facenet", words))
    assert (found.checkpoint, found.vectors, found.model) == (
        *("/vae/model.ckpt-1", "/vae", "dfc_vae"),
    )
