"""Precision auto: chosen where the work is done, recorded, and kept by a run that goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from facevae.commands import choose_precision as choosing
from facevae.commands.attributes import compute_attributes
from facevae.commands.choose_precision import choose_precision
from facevae.commands.train import train_model
from facevae.config import AttributesConfig, ModelConfig, TrainConfig
from facevae.errors import UserError
from facevae.models import build_vae, precision
from facevae.models.checkpoint import ModelCard, save_model
from facevae.models.precision import Choice, resolve_precision
from facevae.ray_cluster.nodes import Node
from facevae.tracking import read_run_id

QUIET = {"system_metrics": False}


@pytest.fixture
def on(monkeypatch):
    """Makes this a processor that has bf16 instructions, or one that has none."""

    def on(is_native: bool) -> None:
        monkeypatch.setattr(precision, "has_native_bf16", lambda device: is_native)
        monkeypatch.setattr(precision, "bf16_slowdown", lambda device: 11.2)

    return on


def train(shards, output, arithmetic: str) -> None:
    training = {"steps": 2, "global_batch_size": 2, "validation_images": 2, "grid_faces": 1}
    train_model(
        TrainConfig(
            output=str(output),
            shards=str(shards),
            model={"latent_size": 4},
            loss={"reconstruction": "pixel"},
            training=training | {"precision": arithmetic},
            tracking=QUIET,
        )
    )


def recorded_of_training(output) -> list[str]:
    """What the folder, the checkpoint and MLflow say of a training."""
    (checkpoint,) = (output / "checkpoints").glob("step_*/training.json")
    run = read_run_id(str(output))
    return [
        json.loads((output / "config.json").read_text())["training"]["precision"],
        json.loads(checkpoint.read_text())["config"]["training"]["precision"],
        MlflowClient(run.uri).get_run(run.run_id).data.params["training.precision"],
    ]


def test_a_training_keeps_the_arithmetic_that_it_began_with(shards, on, tmp_path, capsys):
    """Also on a processor for which auto would choose the other."""
    on(False)
    train(shards, tmp_path, "auto")
    assert recorded_of_training(tmp_path) == ["fp32"] * 3
    assert "training.precision auto: fp32, for bf16 is not native" in capsys.readouterr().err
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints")  # as if it had been killed before the first
    on(True)
    with pytest.raises(UserError, match=r"another training\.precision"):
        train(shards, tmp_path, "bf16")
    train(shards, tmp_path, "auto")
    assert recorded_of_training(tmp_path) == ["fp32"] * 3
    assert "training.precision auto: fp32, as this run began" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = ModelConfig(latent_size=4)
    torch.manual_seed(0)
    save_model(folder, build_vae(config).state_dict(), ModelCard(config, 0, "shards", "run"))
    return folder


def test_a_pass_keeps_the_arithmetic_that_it_began_with(model, shards, on, tmp_path, capsys):
    def encode(arithmetic: str) -> None:
        encoding = {"batch_size": 50, "min_count": 5, "precision": arithmetic}
        compute_attributes(
            AttributesConfig(
                output=str(tmp_path / "vectors"),
                shards=str(shards),
                model=str(model),
                encoding=encoding,
                tracking=QUIET,
            )
        )

    def found() -> tuple[str, str, bytes]:
        folder = tmp_path / "vectors"
        run = read_run_id(str(folder))
        params = MlflowClient(run.uri).get_run(run.run_id).data.params
        claim = json.loads((folder / "source.json").read_text())
        content = (folder / "attribute_vectors.h5").read_bytes()
        return claim["precision"], params["encoding.precision"], content

    on(False)
    encode("auto")
    before = found()
    assert before[:2] == ("fp32", "fp32")
    (tmp_path / "vectors" / "result.json").unlink()
    (tmp_path / "vectors" / "statistics" / "train-00001.npz").unlink()
    on(True)
    with pytest.raises(UserError, match=r"is of another precision \(fp32 there, bf16 here\)"):
        encode("bf16")
    encode("auto")
    assert found() == before
    assert "encoding.precision auto: fp32, as this run began" in capsys.readouterr().err


def test_of_several_nodes_one_that_does_the_work_is_asked(ray_cluster, monkeypatch, capsys):
    def here(wanted: str, device: torch.device) -> Choice:
        raise AssertionError("this process does none of the work")

    wanted = resolve_precision("auto", torch.device("cpu")).arithmetic
    monkeypatch.setattr(precision, "has_native_bf16", here)
    nodes = [Node(1, 0), Node(1, 0)]
    found = choose_precision("precision", "auto", None, nodes, use_gpu=False, cpus=0.5, labels={})
    assert found == wanted
    assert capsys.readouterr().err.startswith(f"precision auto: {wanted}, ")


def test_nodes_that_never_come_are_told_of(ray_cluster, monkeypatch):
    monkeypatch.setattr(choosing, "MINUTES_FOR_NODES", 0.01)
    nodes = [Node(1, 0), Node(1, 0)]
    with pytest.raises(UserError, match=r"no node had room in .*add one, or give --precision fp32"):
        choose_precision("precision", "auto", None, nodes, use_gpu=True, cpus=1, labels={})
