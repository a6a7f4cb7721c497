"""Edits beside run folders that were moved, or that one may only read."""

import ctypes
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from facevae.attributes.directions import derive_directions
from facevae.attributes.hdf5 import read_vectors, write_hdf5
from facevae.attributes.statistics import AttributeStatistics
from facevae.attributes.vectors import AttributeVectors, LatentBatch, mean_difference
from facevae.commands.edit import edit_faces
from facevae.config import EditConfig, ModelConfig, TrackingConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model
from facevae.tracking import TRAINING_RUN_TAG, RunId, read_run_id, start_run

TRACKING = TrackingConfig(system_metrics=False)
MODEL = ModelConfig(latent_size=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The run folder of a training, that of its vectors, and a store of no runs yet."""
    folder = tmp_path_factory.mktemp("made")
    new = folder / "new" / "mlflow.db"
    new.parent.mkdir()
    MlflowClient(f"sqlite:///{new}").search_experiments()
    train, vectors = folder / "runs" / "train", folder / "runs" / "vectors"
    train.mkdir(parents=True)
    shutil.copy(new, train / "mlflow.db")
    with start_run(TRACKING, "train", str(train), {}) as run:
        pass
    (train / "model").mkdir()
    card = ModelCard(MODEL, 1, "shards", run.id.run_id)
    digest = save_model(train / "model", build_vae(MODEL).state_dict(), card).digest
    with start_run(TRACKING, "attributes", str(vectors), {}, model_run=run.id):
        write_vectors(vectors, digest)
    return folder


def write_vectors(folder: Path, model_digest: str) -> None:
    vectors = AttributeVectors(
        names=("Smiling",),
        vectors=np.ones((1, 4), np.float32),
        positive_count=np.array([9]),
        negative_count=np.array([9]),
        standard_errors=np.zeros((1, 4), np.float32),
        valid=np.array([True]),
        model_digest=model_digest,
    )
    latents = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    labels = np.full((4, 1), -1, np.int8)
    batch = LatentBatch([f"{i}.jpg" for i in range(4)], ["train"] * 4, latents, labels)
    write_hdf5(str(folder / "attribute_vectors.h5"), vectors, [batch], 4)


def with_directions(folder: Path) -> Path:
    """Replace the vectors of a folder by those of 200 images with two labels, and directions."""
    model_digest = read_vectors(folder / "attribute_vectors.h5").model_digest
    random = np.random.default_rng(0)
    labels = random.choice(np.array([-1, 1], np.int8), (200, 2))
    latents = (labels @ random.normal(size=(2, 4)) + random.normal(size=(200, 4))).astype(
        np.float32
    )
    total, directions = derive_directions(
        [AttributeStatistics.of_batch(latents, np.ones_like(latents), labels)], None, min_count=9
    )
    vectors = mean_difference(total, ("Smiling", "Male"), model_digest=model_digest)
    batch = LatentBatch([f"{i}.jpg" for i in range(200)], ["train"] * 200, latents, labels)
    write_hdf5(
        folder / "attribute_vectors.h5", replace(vectors, directions=directions), [batch], 200
    )
    return folder


def edit(runs: Path, output: Path, tracking: TrackingConfig = TRACKING) -> RunId:
    """Edit two faces with a model and vectors; returns the record."""
    config = EditConfig(
        output=str(output),
        model=str(runs / "train"),
        vectors=str(runs / "vectors"),
        editing={"faces": 2, "strengths": (0.0, 1.0)},
        tracking=tracking,
    )
    edit_faces(config)
    found = read_run_id(str(output))
    assert found is not None
    return found


def of_training(run: RunId) -> str:
    """The training run that the record of an edit names."""
    return MlflowClient(run.uri).get_run(run.run_id).data.tags[TRAINING_RUN_TAG]


def has_files(run: RunId, beside: Path) -> bool:
    """Whether the files of a run are below a folder."""
    return (beside / "mlartifacts" / run.run_id / "artifacts" / "edit_labelled.png").is_file()


@pytest.fixture
def runs(made, tmp_path) -> Path:
    """Copies of the run folders in another place; those that they are copies of are away."""
    shutil.copytree(made / "runs", tmp_path / "moved" / "runs")
    (made / "runs").rename(made / "away")
    yield tmp_path / "moved" / "runs"
    assert not (made / "runs").exists()
    (made / "away").rename(made / "runs")


def test_an_edit_of_moved_folders_is_recorded_where_they_are_now(runs, tmp_path):
    found = edit(runs, tmp_path / "edit")
    assert found.uri == f"sqlite:///{runs}/train/mlflow.db"
    assert of_training(found) == read_run_id(str(runs / "train")).run_id
    assert has_files(found, runs / "train")
    assert read_run_id(str(runs / "vectors")).uri == found.uri


def test_a_store_that_is_gone_is_not_made_anew(runs, made, tmp_path):
    (runs / "train" / "mlflow.db").unlink()
    shutil.copytree(made / "new", tmp_path / "edit")
    found = edit(runs, tmp_path / "edit")
    assert found.uri == f"sqlite:///{tmp_path}/edit/mlflow.db"
    assert not (runs / "train" / "mlflow.db").exists()


def test_each_kind_of_edit_has_its_picture_and_its_metrics(runs, tmp_path, made):
    """A picture of F rows of K tiles of 64 pixels; only strengths have something to be found."""
    with_directions(runs / "vectors")
    shutil.copytree(made / "new", tmp_path / "store")
    store = TrackingConfig(uri=f"sqlite:///{tmp_path}/store/mlflow.db", system_metrics=False)
    kinds = {
        "held": ({"hold": ("Male",), "faces": 3, "columns": 1}, 3, 10),
        "level": ({"level": (0.0, 1.0), "faces": 2, "columns": 1}, 2, 2),
        "transfer": ({"transfer": "7.jpg", "faces": 2, "columns": 1}, 2, 2),
        "interpolate": ({"interpolate": ("1.jpg", "2.jpg"), "steps": 5}, 1, 5),
        "random": ({"random": 10}, 2, 8),
        "components": ({"components": 3}, 3, 7),
    }
    for kind, (editing, rows, columns) in kinds.items():
        config = EditConfig(
            output=str(tmp_path / kind),
            model=str(runs / "train"),
            vectors=str(runs / "vectors"),
            editing=editing,
            tracking=store,
        )
        metrics = edit_faces(config)
        with Image.open(tmp_path / kind / "edit.png") as picture:
            assert picture.size == (67 * columns + 3, 67 * rows + 3), kind
        assert (tmp_path / kind / "edit_labelled.png").exists()
        found = {name.partition("/")[0] for name in metrics}
        measures = {"kept", "level_change", "held", "leakage"}
        assert measures & found == (measures if kind == "held" else set())


def as_a_reader(work: Callable[[], object]) -> None:
    """Call a function in a thread in which modes of files count for root too.

    A capability that a thread gives up is never given back to it; other threads keep theirs.
    """
    with ThreadPoolExecutor(1, initializer=_obey_modes) as executor:
        executor.submit(work).result()


def _obey_modes() -> None:
    if os.getuid() != 0:
        return
    version_3, override, read_search = 0x20080522, 1, 2
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for each in range(3):
        sets[each] &= ~((1 << override) | (1 << read_search))
    assert libc.capset(header, sets) == 0


@pytest.fixture
def colleagues(made, tmp_path) -> Path:
    """Run folders that one may read, and no more."""
    runs = tmp_path / "colleague"
    shutil.copytree(made / "runs", runs)
    (runs / "train" / "run.json").write_text(
        (runs / "train" / "run.json").read_text().replace(str(made / "runs"), str(runs))
    )
    every = [runs, *runs.rglob("*")]
    for path in every:
        path.chmod(path.stat().st_mode & ~0o222)
    before = {path: path.stat().st_mtime_ns for path in every}
    yield runs
    assert {path: path.stat().st_mtime_ns for path in [runs, *runs.rglob("*")]} == before
    for path in every:
        path.chmod(path.stat().st_mode | 0o200)


def test_an_edit_of_a_folder_that_may_only_be_read_is_recorded_beside_itself(
    colleagues, made, tmp_path, capsys
):
    shutil.copytree(made / "new", tmp_path / "edit")
    as_a_reader(lambda: edit(colleagues, tmp_path / "edit"))
    found = read_run_id(str(tmp_path / "edit"))
    assert found.uri == f"sqlite:///{tmp_path}/edit/mlflow.db"
    assert of_training(found) == read_run_id(str(colleagues / "train")).run_id
    assert has_files(found, tmp_path / "edit")
    assert "takes no records here" in capsys.readouterr().err


def test_a_store_that_is_named_and_may_only_be_read_is_one_line(colleagues, tmp_path):
    store = TrackingConfig(uri=f"sqlite:///{colleagues}/train/mlflow.db", system_metrics=False)
    with pytest.raises(UserError, match=r"train/mlflow\.db may only be read: name another"):
        as_a_reader(lambda: edit(colleagues, tmp_path / "edit", store))


def test_an_output_that_may_only_be_read_is_one_line(colleagues):
    with pytest.raises(UserError, match=r"no permission to write there"):
        as_a_reader(lambda: edit(colleagues, colleagues / "vectors" / "edit"))
