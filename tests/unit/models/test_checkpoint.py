"""Checkpoints: exact round trips; one clear line for what is damaged, foreign or hostile."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facevae.config import ModelConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import (
    OPTIMIZER,
    TRAINING,
    DamagedError,
    ModelCard,
    TrainingState,
    load_model,
    load_training,
    save_model,
    save_training,
)
from facevae.runs.storage import file_digest, value_digest

CONFIG = ModelConfig(latent_size=4)
CARD = ModelCard(CONFIG, 7, "shards", "run")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, TrainingState]:
    """A training checkpoint with an average, and what was written there."""
    torch.manual_seed(0)
    vae, average = build_vae(CONFIG), build_vae(CONFIG).state_dict()
    optimizer = torch.optim.Adam(vae.parameters())
    vae.decode(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    history = [{"step": 7, "train/loss": 0.1}]
    state = TrainingState(
        7, vae.state_dict(), average, optimizer.state_dict(), history, [[1 / 3], [2.0]]
    )
    folder = tmp_path_factory.mktemp("written")
    save_training(folder, state, CARD, {"any": "thing"})
    return folder, state


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(written[0], tmp_path / "copy")


def assert_equal(found: Any, expected: Any) -> None:
    """The same tensors in the same structure, bit for bit."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_model_reads_back_bit_for_bit(written):
    folder, state = written
    vae, card = load_model(folder)
    assert not vae.training
    assert (card.model, card.step, card.shards_digest, card.run_id) == (CONFIG, 7, "shards", "run")
    assert card.digest == file_digest(folder / "model.safetensors")
    assert_equal(dict(vae.state_dict()), dict(state.average))


def test_a_training_state_reads_back_bit_for_bit(written):
    folder, state = written
    found = load_training(folder)
    assert found[-2:] == state[-2:]
    assert found.step == state.step
    assert_equal(found.weights, dict(state.weights))
    assert_equal(found.average, dict(state.average))
    assert any(not torch.equal(found.average[name], w) for name, w in found.weights.items())
    assert found.optimizer["param_groups"] == state.optimizer["param_groups"]
    assert len(found.optimizer["state"]) > 0
    assert_equal(found.optimizer["state"], state.optimizer["state"])


def test_without_an_average_the_model_is_the_weights(written, tmp_path):
    save_training(tmp_path, written[1]._replace(average=None), CARD, {})
    found = load_training(tmp_path)
    assert found.average is None
    assert_equal(found.weights, dict(written[1].weights))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def refused(load: Callable[[Path], Any], folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(UserError) as raised:
        load(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("load", [load_model, load_training])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_weights_are_refused(folder, load, damage):
    damage(folder / "model.safetensors")
    assert "model.safetensors" in refused(load, folder)


@pytest.mark.parametrize("name", ["training.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_training_state_is_refused_and_the_model_still_loads(folder, name, damage):
    damage(folder / name)
    assert name in refused(load_training, folder)
    load_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '"x"', '{"step": 1, "digests": []}'])
def test_a_foreign_training_file_is_refused(folder, text):
    (folder / "training.json").write_text(text)
    assert str(folder) in refused(load_training, folder)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_training_file_is_refused(folder, damage):
    damage(folder / "training.json")
    assert "training.json" in refused(load_training, folder)


@pytest.mark.parametrize("name", ["training.json", "model.json", "optimizer.pt"])
def test_no_bit_of_any_file_may_change(folder, name):
    """Also where the file stays readable, as a digit of the loss history does."""
    data = bytearray((folder / name).read_bytes())
    for place in np.linspace(0, len(data) - 2, 40).astype(int):
        changed = bytearray(data)
        changed[place] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(DamagedError, match=name):
            load_training(folder)


def replace_optimizer(folder: Path, content: bytes) -> None:
    """Put another file in the optimiser's place, with the digest that belongs to it."""
    (folder / "optimizer.pt").write_bytes(content)
    value = json.loads((folder / "training.json").read_text())
    value["digests"]["optimizer.pt"] = file_digest(folder / "optimizer.pt")
    del value["digest"]
    value["digest"] = value_digest(value)
    (folder / "training.json").write_text(json.dumps(value))


def test_a_hostile_pickle_is_not_executed(folder, tmp_path):
    hostile = pickle.dumps(Hostile(tmp_path / "owned"), protocol=2)
    replace_optimizer(folder, hostile)
    assert "damaged training checkpoint" in refused(load_training, folder)
    assert not (tmp_path / "owned").exists()
    pickle.loads(hostile)  # noqa: S301  (the proof that it would have done harm)
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04" + bytes(100)])
def test_what_torch_cannot_read_is_refused(folder, content):
    replace_optimizer(folder, content)
    assert "damaged training checkpoint" in refused(load_training, folder)


def test_weights_of_another_model_are_refused(tmp_path):
    other = build_vae(ModelConfig(name="dfc_vae_resnet", latent_size=4)).state_dict()
    save_model(tmp_path, other, CARD)
    assert "weights of another model" in refused(load_model, tmp_path)


def test_weights_of_another_size_are_refused(tmp_path):
    other = build_vae(ModelConfig(latent_size=5)).state_dict()
    save_model(tmp_path, other, CARD)
    assert "weights of another model" in refused(load_model, tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "not json", json.dumps({"model": {"name": "x"}})])
def test_a_foreign_card_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    assert "model.json" in refused(load_model, folder)


def test_another_pixel_normalisation_is_refused(folder):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "pixel_mean": [0, 0, 0]}))
    assert "another pixel normalisation" in refused(load_model, folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "no model in" in refused(load_model, tmp_path)
    assert "no training checkpoint" in refused(load_training, tmp_path)


def test_an_optimizer_that_asks_for_all_memory_is_refused(folder):
    path = folder / OPTIMIZER
    path.write_bytes(b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.")  # a text of 4 EiB
    value = json.loads((folder / TRAINING).read_text())
    value["digests"][OPTIMIZER] = file_digest(path)
    del value["digest"]
    (folder / TRAINING).write_text(json.dumps({**value, "digest": value_digest(value)}))
    with pytest.raises(UserError, match="damaged training checkpoint"):
        load_training(folder)
