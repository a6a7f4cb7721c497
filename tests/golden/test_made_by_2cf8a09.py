"""Runs and MLflow models that commit 2cf8a09 made go on with today's code.

`made_by_2cf8a09.tar.xz` holds what that commit left in /tmp/made-by-2cf8a09: a data set in shards,
a training on it that was killed after its checkpoint of step 2 of 6, and a model logged in MLflow.
Weights and moments of the checkpoint were rounded to few values and written by that commit's own
code, so that they compress; `continued.json` is what it made of the rest of the training.
"""

import json
import sqlite3
import tarfile
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from facevae.attributes.latents import encode_pixels
from facevae.cli import main
from facevae.config import TrackingConfig
from facevae.models.checkpoint import load_model
from facevae.pixels import to_pixels
from facevae.report.grids import read_png
from facevae.tracking import model_folder, read_run_id
from tests.golden.trace import TIMES, TOLERANCE, processor

HERE = Path(__file__).parent
MADE_IN = "/tmp/made-by-2cf8a09"
OPTIONS = [
    "--scaling.workers",
    "1",
    "--loss.reconstruction",
    "pixel",
    "--loss.beta",
    "1e-4",
    "--model.latent_size",
    "1",
    "--training.steps",
    "6",
    "--training.global_batch_size",
    "16",
    "--training.log_every",
    "1",
    "--training.validate_every",
    "2",
    "--training.validation_images",
    "16",
    "--training.grid_every",
    "2",
    "--training.grid_faces",
    "4",
    "--training.checkpoint_every",
    "2",
    "--tracking.system_metrics",
    "false",
    "--tracking.register_as",
    "faces",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What 2cf8a09 left, in a new place, whose name its files and its stores have now."""
    folder = tmp_path_factory.mktemp("made")
    with tarfile.open(HERE / "made_by_2cf8a09.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    place = folder / Path(MADE_IN).name
    for file in [*place.rglob("*.json"), *place.rglob("MLmodel")]:
        if file.name != "training.json":  # its digest is of the place that it was made in
            file.write_text(file.read_text().replace(MADE_IN, str(place)))
    for file in place.rglob("mlflow.db"):
        _rename_in_store(file, place)
    return place


def _rename_in_store(file: Path, place: Path) -> None:
    with sqlite3.connect(file) as store:
        for (table,) in store.execute("select name from sqlite_master where type = 'table'"):
            columns = [row[1] for row in store.execute(f"pragma table_info('{table}')")]
            for column in columns:
                store.execute(
                    f"update {table} set {column} = replace({column}, ?, ?) "
                    f"where typeof({column}) = 'text' and instr({column}, ?)",
                    (MADE_IN, str(place), MADE_IN),
                )


def test_a_training_that_was_killed_is_finished_with_the_same_bits(made, ray_cluster):
    expected = json.loads((HERE / "continued.json").read_text())
    before = read_run_id(str(made / "killed"))
    words = ["train", "--output", str(made / "killed"), "--shards", str(made / "shards"), *OPTIONS]
    assert main(words) == 0
    model = json.loads((made / "killed" / "model" / "model.json").read_text())
    record = json.loads(
        (made / "killed" / "checkpoints" / "step_0000006" / "training.json").read_text()
    )
    is_same = expected["processor"] == processor() and expected["torch"] == torch.__version__
    if is_same:
        assert model["digest"] == expected["digest"]
    for row, other in zip(record["history"], expected["history"], strict=True):
        for name in row.keys() - TIMES:
            tolerance = 0 if is_same else TOLERANCE
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=0), name
    assert read_run_id(str(made / "killed")) == before
    client = MlflowClient(before.uri)
    assert client.get_run(before.run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(before.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_found_done(made, ray_cluster, capsys):
    words = ["train", "--output", str(made / "killed"), "--shards", str(made / "shards"), *OPTIONS]
    assert main(words) == 0
    assert "already done" in capsys.readouterr().err


def test_shards_are_found_done_and_their_faces_are_read(made, ray_cluster, capsys):
    words = [
        "shards",
        "--output",
        str(made / "shards"),
        "--drawn.count",
        "150",
        "--drawn.seed",
        "9",
    ]
    words += ["--sharding.image_size", "64", "--sharding.images_per_shard", "60"]
    assert main(words) == 0
    assert "already done" in capsys.readouterr().err


def test_a_model_that_was_logged_loads_from_mlflow(made):
    run = read_run_id(str(made / "logged"))
    faces = np.arange(2 * 64 * 64 * 3, dtype=np.uint32).reshape(2, 64, 64, 3).astype(np.uint8)
    mlflow.set_tracking_uri(run.uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    finally:
        mlflow.set_tracking_uri(None)
    reconstructions = loaded.predict(faces)
    config = TrackingConfig(uri=run.uri)
    with model_folder("models:/faces/1", config, str(made / "logged")) as folder:
        vae = load_model(folder).vae
    latents = torch.from_numpy(encode_pixels(vae, faces, 2).mean)
    with torch.no_grad():
        np.testing.assert_array_equal(reconstructions, to_pixels(vae.decode(latents)).numpy())


def test_the_grid_of_the_first_steps_is_read(made):
    grid = read_png(str(made / "killed" / "grids" / "step_000002.png"))
    with Image.open(made / "killed" / "grids" / "step_000002.png") as picture:
        assert grid is not None
        assert grid.shape == (picture.height, picture.width, 3)
