"""What a training's folder is of, and how often weights travel at its end."""

from collections import Counter

import numpy as np
import pytest
from s3fs import S3FileSystem

from facevae.commands.train import _tell_of_idle_gpus, train_identity, train_model
from facevae.config import ScalingConfig, TrainConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, TrainingState, save_training
from facevae.ray_cluster.nodes import Node
from facevae.ray_cluster.placement import plan_workers
from facevae.tracking import start_run
from facevae.training.checkpoint_manager import CheckpointManager
from facevae.training.publish import keep_and_log_models


def identity(**settings) -> dict:
    return train_identity(TrainConfig(output="unused", **settings))


def test_what_changes_no_result_may_change():
    keeping = {"failed_checkpoints_allowed": 9, "checkpoints_kept": 1, "keep_best": False}
    assert identity(training=keeping) == identity()
    assert identity(sharding={"max_bad_fraction": 0.5, "attempts": 9}) == identity()
    assert identity(scaling={"workers": 3}, tracking={"experiment": "other"}) == identity()


@pytest.mark.parametrize("setting", ["seed", "checkpoint_every"])
def test_what_changes_the_run_does_not(setting):
    assert identity(training={setting: 7}) != identity()
    assert identity(sharding={"image_size": 32}) != identity()


def test_a_precision_that_is_not_chosen_is_left_out():
    assert "precision" not in identity(training={"precision": "auto"})["training"]
    assert identity(training={"precision": "bf16"})["training"]["precision"] == "bf16"


def test_shards_that_are_not_there_are_found_before_anything_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    missing = TrainConfig(output=str(tmp_path / "run"), shards=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no shards in .*run `facevae shards`"):
        train_model(missing)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("workers", "gpu", "kind", "said"),
    [
        (2, "auto", "T4", "2 workers would need a GPU each and there are 1: with --scaling.work"),
        (1, "auto", "T4", ""),
        (2, "no", "T4", ""),
        (1, "auto", "V100", ""),
    ],
)
def test_gpus_that_stay_idle_are_told_of(capsys, workers, gpu, kind, said):
    scaling, nodes = ScalingConfig(workers=workers, gpu=gpu), [Node(8, 1, gpu_type=kind)]
    _tell_of_idle_gpus(scaling, plan_workers(scaling, nodes), nodes)
    told = capsys.readouterr().err
    assert told.count("\n") == bool(said)
    assert said in told


@pytest.mark.parametrize(("best", "downloads"), [(1, 2), (2, 1)])
def test_weights_travel_from_and_to_s3_no_more_than_they_must(
    s3, tmp_path, monkeypatch, best, downloads
):
    """The last checkpoint and the best one come once each; the model and the best go once each."""
    monkeypatch.chdir(tmp_path)
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "system_metrics": False}
    model, training = {"latent_size": 4}, {"steps": 2}
    config = TrainConfig(output=s3, model=model, training=training, tracking=tracking)
    _keep_checkpoints(config, best)
    travelled: Counter[str] = Counter()
    for name in ("_get_file", "_put_file"):
        monkeypatch.setattr(S3FileSystem, name, _counted(name, travelled))
    faces = np.zeros((2, 64, 64, 3), np.uint8)
    with start_run(config.tracking, "train", str(tmp_path), {}) as run:
        metrics = keep_and_log_models(config, faces, run, None)
    assert (metrics["steps"], metrics["best_step"]) == (2, best)
    assert travelled == {"_get_file": downloads, "_put_file": 2}


def _keep_checkpoints(config: TrainConfig, best: int):
    weights = build_vae(config.model).state_dict()
    history = [{"step": step, "validation/loss": float(step != best)} for step in (1, 2)]
    checkpoints = CheckpointManager(config.output, config.training)
    for step in (1, 2):
        state = TrainingState(step, weights, None, {}, history[:step])
        card = ModelCard(config.model, step, "digest", "run")

        def write(folder, state=state, card=card):
            save_training(folder, state, card, {})

        checkpoints.save(step, state.history, write)
    checkpoints.finish()


def _counted(name: str, travelled: Counter[str]):
    """A transfer of S3's, which counts those of weights."""
    transfer = getattr(S3FileSystem, name)

    async def counted(self, source, target, **settings):
        travelled[name] += str(source).endswith("/model.safetensors")
        return await transfer(self, source, target, **settings)

    return counted
