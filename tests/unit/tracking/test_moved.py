"""Run folders that were moved or copied: their store is found again, and its files with it."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from facevae.config import ModelConfig, TrackingConfig
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, load_model, save_model
from facevae.tracking import RunId, log_model, model_folder, read_run_id, start_run
from facevae.tracking.moved import find_store, mend_artifact_places
from facevae.tracking.store import sqlite_path

TRACKING = TrackingConfig(system_metrics=False)


def write_store(file: Path, *runs: str, root: str = "") -> str:
    """A store that has the tables which matter here; returns its URI."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        store.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        store.execute("CREATE TABLE experiments (artifact_location)")
        store.execute("INSERT INTO experiments VALUES (?)", (root,))
        for run in runs:
            store.execute("INSERT INTO runs VALUES (?, ?)", (run, f"{root}/{run}/artifacts"))
    return f"sqlite:///{file}"


def places(file: Path) -> tuple[list[str], list[str]]:
    """Where a store thinks that files are: of experiments, and of runs."""
    with contextlib.closing(sqlite3.connect(file)) as store:
        experiments = store.execute("SELECT artifact_location FROM experiments").fetchall()
        runs = store.execute("SELECT artifact_uri FROM runs").fetchall()
    return [each for (each,) in experiments], [each for (each,) in runs]


@pytest.mark.parametrize(
    ("store", "folder"),
    [
        ("mlflow.db", "."),  # a training's own
        ("mlflow.db", "train"),  # the quickstart's
        ("train/mlflow.db", "vectors"),  # that of the training whose model is used
        ("train/records.db", "vectors"),
        ("it's 100% ü#1/mlflow.db", "it's 100% ü#1"),
    ],
)
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_store_goes_with_its_folder(tmp_path, store, folder, is_copied):
    old = tmp_path / "old" / store
    run = RunId(write_store(old, "a", "b"), "b")
    assert find_store(run, str(tmp_path / "old" / folder)) == run
    shutil.copytree(tmp_path / "old", tmp_path / "deep" / "new")
    if not is_copied:
        shutil.rmtree(tmp_path / "old")
    found = find_store(run, str(tmp_path / "deep" / "new" / folder))
    assert found.run_id == "b"
    assert sqlite_path(found.uri) == f"{tmp_path}/deep/new/{store}"


def test_a_store_elsewhere_stays_where_it_is(tmp_path):
    run = RunId(write_store(tmp_path / "shared" / "mlflow.db", "mine"), "mine")
    write_store(tmp_path / "new" / "mlflow.db", "another's")
    (tmp_path / "new" / "shared").mkdir()
    (tmp_path / "new" / "shared" / "mlflow.db").write_text("no store")
    assert find_store(run, str(tmp_path / "new")) == run
    server = RunId("http://server:5000", "mine")
    assert find_store(server, str(tmp_path / "new")) == server


def test_files_that_moved_with_a_store_are_known_there(tmp_path):
    file = tmp_path / "new" / "mlflow.db"
    uri = write_store(file, "a", "b", root="file:///old/it's/mlartifacts")
    (tmp_path / "new" / "mlartifacts" / "b").mkdir(parents=True)
    root = f"file://{tmp_path}/new/mlartifacts"
    for _ in range(2):
        mend_artifact_places(uri)
        assert places(file) == ([root], [f"{root}/a/artifacts", f"{root}/b/artifacts"])


@pytest.mark.parametrize(
    "root",
    ["file:///data/mlartifacts", "s3://bucket/mlartifacts", "file:///old/mlartifacts2", "mlruns"],
)
def test_files_that_are_elsewhere_are_left_there(tmp_path, root):
    file = tmp_path / "new" / "mlflow.db"
    uri = write_store(file, "a", root=root)
    before = places(file)
    (tmp_path / "new" / "mlartifacts" / "another").mkdir(parents=True)
    mend_artifact_places(uri)
    assert places(file) == before


@pytest.mark.parametrize("content", [None, b"", b"no store"])
def test_what_is_no_store_is_left_to_mlflow(tmp_path, content):
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    mend_artifact_places(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").exists() == (content is not None)


def test_a_run_goes_on_in_its_moved_folder_and_its_model_is_found(tmp_path):
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    (old / "model").mkdir(parents=True)
    config = ModelConfig(latent_size=4)
    card = save_model(old / "model", build_vae(config).state_dict(), ModelCard(config, 1, "s", "r"))
    with start_run(TRACKING, "train", str(old), {"a": 1}) as run:
        log_model(run, old / "model", np.zeros((2, 64, 64, 3), np.uint8), "faces")
    new.parent.mkdir()
    old.rename(new)
    utils._artifact_repos_cache.clear()  # MLflow remembers places for as long as a process lives
    with model_folder("models:/faces/1", TRACKING, str(new)) as folder:
        assert load_model(folder).card.digest == card.digest
    with start_run(TRACKING, "train", str(new), {"a": 1}) as again:
        again.json("after.json", {})
    assert again.id == RunId(f"sqlite:///{new}/mlflow.db", run.id.run_id)
    assert read_run_id(str(new)) == again.id
    record = MlflowClient(again.id.uri).get_run(run.id.run_id)
    assert record.data.tags["facevae.output"] == str(new)
    assert (new / "mlartifacts" / run.id.run_id / "artifacts" / "after.json").is_file()
    assert not old.exists()
