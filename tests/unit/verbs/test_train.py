"""Whose folder it is: a run goes on with its own settings, but for those that change no result."""

import pytest

from facevae.config import TrainConfig
from facevae.errors import UserError
from facevae.verbs.train import _check_claim, _claim, train_model


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
