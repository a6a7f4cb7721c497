"""Whose folder it is: a run goes on with its own settings, but for those that change no result."""

from collections import Counter

import numpy as np
import pytest
from s3fs import S3FileSystem

from facevae.commands.train import _check_claim, _claim, _finish, train_model
from facevae.config import TrainConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, TrainingState, save_training
from facevae.tracking import start_run
from facevae.training.checkpoint_manager import CheckpointManager


def config(**training) -> TrainConfig:
    return TrainConfig(output="unused", training=training)


def test_how_many_checkpoints_are_kept_may_change(tmp_path):
    _claim(str(tmp_path), config())
    other = config(failed_checkpoints_allowed=9, checkpoints_kept=1, keep_best=False)
    _check_claim(str(tmp_path), other)


def test_how_bad_faces_are_taken_may_change(tmp_path):
    _claim(str(tmp_path), config())
    other = {"max_bad_fraction": 0.5, "tries": 9}
    _check_claim(str(tmp_path), TrainConfig(output="unused", sharding=other))
    with pytest.raises(UserError, match=r"another sharding\.image_size"):
        _check_claim(str(tmp_path), TrainConfig(output="unused", sharding={"image_size": 32}))


@pytest.mark.parametrize("setting", ["seed", "checkpoint_every"])
def test_what_changes_the_run_is_refused_by_name(tmp_path, setting):
    _claim(str(tmp_path), config())
    with pytest.raises(UserError, match=rf"another training\.{setting}"):
        _check_claim(str(tmp_path), config(**{setting: 7}))


@pytest.mark.parametrize("began", ["fp32", "bf16"])
def test_precision_auto_goes_on_with_what_the_run_began_in(tmp_path, began):
    _claim(str(tmp_path), config(precision=began))
    _check_claim(str(tmp_path), config(precision="auto"))
    _check_claim(str(tmp_path), config(precision=began))
    other = {"fp32": "bf16", "bf16": "fp32"}[began]
    with pytest.raises(UserError, match=r"another training\.precision"):
        _check_claim(str(tmp_path), config(precision=other))


def test_shards_that_are_not_there_are_found_before_anything_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    missing = TrainConfig(output=str(tmp_path / "run"), shards=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no shards in .*run `facevae shards`"):
        train_model(missing)
    assert not (tmp_path / "run").exists()


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
        metrics = _finish(config, faces, run, None)
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
