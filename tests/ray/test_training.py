"""Training on Ray Train: two workers like one, resumed like uninterrupted, refusals, the record."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from mlflow import MlflowClient
from PIL import Image
from torch.utils._pytree import tree_leaves

from facevae.cli import parse
from facevae.commands import train
from facevae.commands.train import train_model
from facevae.config import TrackingConfig, TrainConfig
from facevae.data.order import spread_images
from facevae.data.shard_files import read_manifest
from facevae.errors import UserError
from facevae.models.checkpoint import TrainingState, load_model, load_training
from facevae.pixels import model_input, to_pixels
from facevae.tracking import RunId, model_folder, read_run_id

LAST = "step_0000006"


def config(shards, output, workers=1, **training) -> TrainConfig:
    settings = {
        "steps": 6,
        "global_batch_size": 16,
        "log_every": 1,
        "grid_every": 3,
        "grid_faces": 8,
        "validate_every": 3,
        "validation_images": 32,
        "checkpoint_every": 3,
    }
    return TrainConfig(
        output=str(output),
        shards=str(shards),
        model={"latent_size": 16},
        loss={"layers": ["conv1"], "beta": 1 / 128},
        training=settings | training,
        scaling={"workers": workers},
        tracking={"system_metrics": False, "register_as": "faces"},
    )


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    """The output of a short training on two workers."""
    output = tmp_path_factory.mktemp("training") / "two"
    train_model(config(shards, output, workers=2))
    return output


@pytest.fixture(scope="module")
def run(trained) -> RunId:
    found = read_run_id(str(trained))
    assert found is not None
    return found


def test_the_run_folder_holds_model_pictures_and_figures(trained):
    for name in ("model/model.safetensors", "model/model.json", "curves.png", "result.json",
                 "grids/step_000003.png", "grids/step_000006.png", "config.json"):  # fmt: skip
        assert (trained / name).is_file(), name
    kept = sorted(path.name for path in (trained / "checkpoints").glob("step_*"))
    assert kept == ["step_0000003", LAST]


def test_the_best_model_is_kept_recorded_and_has_a_name(trained, run):
    history = load_training(trained / "checkpoints" / LAST).history
    losses = {r["step"]: r["validation/loss"] for r in history if "validation/loss" in r}
    best = min(losses, key=losses.__getitem__)
    assert json.loads((trained / "result.json").read_text())["best_step"] == best
    assert MlflowClient(run.uri).get_run(run.run_id).data.tags["facevae.best_step"] == str(best)
    with model_folder(str(trained / "best"), TrackingConfig(uri=run.uri), "unused") as folder:
        assert load_model(folder).card.step == best


def test_a_run_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(
    trained, shards, tmp_path, capsys
):
    """The state after step 3 and the last three steps give what six steps gave, bit for bit.

    That after step 6 is there but cut short. Ray starts the most workers of a range that the
    cluster holds: two, as before.
    """
    output, run = killed_after_step_3(trained, tmp_path / "again")
    shutil.copytree(trained / "checkpoints" / LAST, output / "checkpoints" / LAST)
    os.truncate(output / "checkpoints" / LAST / "optimizer.pt", 1000)
    metrics = _drop_after(run, "train/loss", 2)  # as if the server had been away from then on
    train_model(config(shards, output, workers=(1, 2)))
    said = (
        rf"checkpoint \S+{LAST} is not whole \(optimizer.pt .*from \S+step_0000003, the one before"
    )
    assert re.search(said, capsys.readouterr().err)
    again = load_training(output / "checkpoints" / LAST)
    before = load_training(trained / "checkpoints" / LAST)
    for name, weights in before.weights.items():
        assert torch.equal(weights, again.weights[name]), name
    assert [row["train/workers"] for row in again.history if "train/workers" in row] == [2] * 6
    # Rows that were lost come from the checkpoint's history; those that are there stay single.
    client = MlflowClient(run.uri)
    assert metrics
    for name in metrics:
        steps = [metric.step for metric in client.get_metric_history(run.run_id, name)]
        assert steps == ([1, 2, 3, 4, 5, 6] if name.startswith("train/") else [3, 6]), name
    images = [file.path for file in client.list_artifacts(run.run_id, "images")]
    assert len(images) == 4, images
    (model,) = client.get_run(run.run_id).outputs.model_outputs
    versions = client.search_model_versions(f"name = 'faces' and run_id = '{run.run_id}'")
    assert [version.source for version in versions] == [f"models:/{model.model_id}"]


def test_what_a_finished_training_could_not_deliver_is_delivered_by_the_same_command(
    trained, shards, tmp_path
):
    output = tmp_path / "again"
    shutil.copytree(trained, output)
    run = _as_if_unpublished(output)
    _drop_after(run, "train/loss", 2)
    train_model(config(shards, output, workers=2))
    client = MlflowClient(run.uri)
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert (output / "result.json").exists()


def _as_if_unpublished(output: Path) -> RunId:
    """Make a copied run folder look like one whose training alone came to its end."""
    (output / "result.json").unlink()
    shutil.rmtree(output / "model")
    run = RunId(f"sqlite:///{output}/mlflow.db", read_run_id(str(output)).run_id)
    (output / "run.json").write_text(json.dumps(run._asdict()))
    return run


def _drop_after(run: RunId, key: str, step: int) -> list[str]:
    """Take later points of a metric out of the store; returns the names of all."""
    with contextlib.closing(sqlite3.connect(run.uri.removeprefix("sqlite:///"))) as store, store:
        store.execute("DELETE FROM metrics WHERE key = ? AND step > ?", (key, step))
        store.execute("UPDATE latest_metrics SET step = ? WHERE key = ?", (step, key))
        return [key for (key,) in store.execute("SELECT key FROM latest_metrics")]


def killed_after_step_3(trained: Path, output: Path) -> tuple[Path, RunId]:
    """A copy of a run's folder, as if it had been killed after step 3, and its run."""
    shutil.copytree(trained, output)
    run = _as_if_unpublished(output)
    shutil.rmtree(output / "checkpoints" / LAST)
    return output, run


@pytest.fixture(scope="module")
def grown(shards, tmp_path_factory) -> Path:
    """The output of a training that was finished after four steps, and then had eight."""
    output = tmp_path_factory.mktemp("grown") / "run"
    first = train_model(config(shards, output, steps=4))
    assert first["steps"] == 4
    before = read_run_id(str(output)), load_model(output / "model").card.digest
    assert train_model(config(shards, output, steps=8))["steps"] == 8
    assert read_run_id(str(output)) == before[0]
    assert load_model(output / "model").card.digest != before[1]
    return output


def test_a_finished_training_made_longer_has_the_bits_of_one_of_all_steps(
    grown, shards, tmp_path, capsys
):
    train_model(config(shards, tmp_path / "whole", steps=8))
    one, other = (
        load_training(each / "checkpoints" / "step_0000008") for each in (grown, tmp_path / "whole")
    )
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert torch.equal(a, b)
    assert json.loads((grown / "result.json").read_text())["steps"] == 8
    train_model(config(shards, grown, steps=8))
    assert "already done" in capsys.readouterr().err
    run = read_run_id(str(grown))
    client = MlflowClient(run.uri)
    steps = [metric.step for metric in client.get_metric_history(run.run_id, "train/loss")]
    assert steps == [*range(1, 9)]
    assert client.get_run(run.run_id).data.tags["facevae.steps"] == "8"
    versions = client.search_model_versions(f"name = 'faces' and run_id = '{run.run_id}'")
    assert len(versions) == 2


def tensors(state: TrainingState) -> list[torch.Tensor]:
    """Its weights by name, for a file has them in any order, and the optimiser's moments."""
    weights = [state.weights[name] for name in sorted(state.weights)]
    return [*weights, *tree_leaves(state.optimizer["state"])]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_training_from_a_models_weights_begins_with_them(grown, shards, tmp_path, workers):
    """At a rate that all but keeps them, where random weights would be far away."""
    afresh = config(shards, tmp_path / "run", workers, steps=1, learning_rate=1e-9)
    train_model(afresh.model_copy(update={"init_from": str(grown)}))
    state = load_training(tmp_path / "run" / "checkpoints" / "step_0000001")
    model = load_model(grown / "model")
    for name, weights in model.vae.named_parameters():
        torch.testing.assert_close(state.weights[name], weights.data, atol=1e-7, rtol=0)
    counts = {int(value) for name, value in state.weights.items() if "num_batches" in name}
    assert counts == {9}
    assert {int(each["step"]) for each in state.optimizer["state"].values()} == {1}
    run = read_run_id(str(tmp_path / "run"))
    tags = MlflowClient(run.uri).get_run(run.run_id).data.tags
    assert tags["facevae.training_run"] == read_run_id(str(grown)).run_id
    assert tags["facevae.init_digest"] == model.card.digest


def test_a_finished_run_says_so_and_other_settings_are_refused(trained, shards, capsys):
    train_model(config(shards, trained, workers=2))
    assert "already done" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"another training\.learning_rate"):
        train_model(config(shards, trained, workers=2, learning_rate=0.1))


def test_mlflow_has_params_metrics_by_step_grids_and_dataset(trained, run, shards):
    client = MlflowClient(run.uri)
    record = client.get_run(run.run_id)
    assert record.info.status == "FINISHED"
    assert record.data.params["training.global_batch_size"] == "16"
    assert record.data.params["loss.layers"]
    for name in ("train/loss", "train/kl", "train/reconstruction/conv1", "train/learning_rate",
                 "train/images_per_second"):  # fmt: skip
        steps = [metric.step for metric in client.get_metric_history(run.run_id, name)]
        assert sorted(steps) == [1, 2, 3, 4, 5, 6], name
    steps = [m.step for m in client.get_metric_history(run.run_id, "validation/psnr")]
    assert sorted(steps) == [3, 6]
    images = [file.path for file in client.list_artifacts(run.run_id, "images")]
    for step in (3, 6):
        assert any(f"reconstructions+step+{step}+" in path for path in images)
    (dataset,) = record.inputs.dataset_inputs
    assert dataset.dataset.digest == read_manifest(str(shards)).digest[:36]
    assert {file.path for file in client.list_artifacts(run.run_id)} >= {
        "config.json", "curves.png", "history.json",
    }  # fmt: skip


def test_the_logged_model_draws_the_same_pixels_without_unpickling(
    trained, run, shards, monkeypatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    faces = spread_images(str(shards), read_manifest(str(shards)), "val", 4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.uri)
    drawn = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model").predict(faces)
    vae = load_model(trained / "model").vae
    with torch.no_grad():
        images = model_input(torch.from_numpy(faces), 64, vae.resize_method)
        expected = to_pixels(vae.decode(vae.encode(images).mean)).numpy()
    np.testing.assert_array_equal(drawn, expected)


def test_every_way_of_naming_a_model_finds_it(trained, run):
    MlflowClient(run.uri).set_registered_model_alias("faces", "best", "1")
    digest = load_model(trained / "model").card.digest
    tracking = TrackingConfig(uri=run.uri)
    names = [
        str(trained),
        str(trained / "model"),
        str(trained / "checkpoints" / LAST),
        f"runs:/{run.run_id}/model",
        "models:/faces/1",
        "models:/faces@best",
    ]
    for name in names:
        with model_folder(name, tracking, "unused") as folder:
            assert load_model(folder).card.digest == digest, name
    with (
        pytest.raises(UserError, match="no model models:/faces@worst"),
        model_folder("models:/faces@worst", tracking, "unused"),
    ):
        pass


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.long), (1, 2)])
def test_a_loss_that_is_not_finite_stops_all_workers_and_names_step_and_term(
    shards, tmp_path, workers
):
    """Even where lost workers are started anew: the next would come to the same end."""
    broken = config(shards, tmp_path / "broken", workers=workers, learning_rate=1e30, steps=20)
    with pytest.raises(UserError, match=r"loss term '\w+' is not finite at step \d+"):
        train_model(broken)
    run = read_run_id(str(tmp_path / "broken"))
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "FAILED"
    assert not list((tmp_path / "broken" / "checkpoints").glob("step_*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": {"workers": 1, "cpus_per_worker": 999}}, "do not fit"),
        ({"scaling": {"workers": 1, "gpu": "yes"}}, "need a GPU each"),
        ({"loss": {"layers": ["conv9"]}}, "conv9"),
        ({"shards": "/nowhere"}, "no shards in /nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(shards, tmp_path, changes, message):
    if torch.cuda.is_available() and "GPU" in message:
        pytest.skip("there is a GPU")
    settings = {"output": str(tmp_path / "out"), "shards": str(shards)} | changes
    with pytest.raises(UserError, match=message):
        train_model(TrainConfig(**settings))
    assert not (tmp_path / "out" / "mlflow.db").exists()


def test_a_mistake_in_the_source_is_mended_by_other_settings_for_the_same_folder(
    ray_cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "run_training", lambda *_: None)
    monkeypatch.setattr(train, "keep_and_log_models", lambda *_: {"steps": 2})
    (tmp_path / "faces").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40)).save(tmp_path / "faces" / f"{number}.png")
    labels = tmp_path / "labels.csv"
    labels.write_text("image_id,Smiling\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(3)))
    words = ["--images", str(tmp_path / "faces"), "--attributes", str(labels)]
    words += ["--output", str(tmp_path / "run"), "--training.steps", "2"]
    with pytest.raises(UserError, match="label_encoding"):
        train_model(parse("train", words))
    mended = train_model(parse("train", [*words, "--sharding.label_encoding", "binary"]))
    assert mended["steps"] == 2


@pytest.mark.long  # its losses and layers, without Ray: tests/unit/perceptual
def test_the_wikis_recipe_runs_with_its_three_facenet_layers(tmp_path):
    weights = tmp_path / "facenet.pt"
    torch.manual_seed(0)
    torch.save(InceptionResnetV1(classify=True, num_classes=5).state_dict(), weights)
    recipe = Path(__file__).parents[2] / "configs" / "dfc_vae.yaml"
    words = ["--config", str(recipe), "--training.steps", "2", "--loss.weights", str(weights)]
    places = ["--output", str(tmp_path / "run"), "--drawn.count", "200"]
    figures = train_model(parse("train", [*words, *places, "--tracking.system_metrics", "false"]))
    assert figures["steps"] == 2
    for layer in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        assert np.isfinite(figures[f"train/reconstruction/{layer}"])


def test_weights_that_are_not_there_are_named_before_anything_starts(tmp_path):
    missing = str(tmp_path / "none.pt")
    words = ["--loss.network", "inception_resnet_v1", "--loss.layers", "[Conv2d_1a_3x3]"]
    with pytest.raises(UserError, match=r"none\.pt"):
        train_model(
            parse("train", [*words, "--loss.weights", missing, "--output", str(tmp_path / "run")])
        )
