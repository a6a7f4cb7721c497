"""Checkpoints: exact round trips; one clear line for what is damaged, foreign or hostile."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from facevae.checkpoint import (
    ModelCard,
    TrainingState,
    load_model,
    load_training,
    save_model,
    save_training,
)
from facevae.config import ModelConfig
from facevae.errors import UserError
from facevae.models import build_vae

CONFIG = ModelConfig(latent_size=4)
CARD = ModelCard(CONFIG, 7, "shards", "run")


def saved(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write a training checkpoint with an average; returns the average's weights."""
    torch.manual_seed(seed)
    vae, average = build_vae(CONFIG), build_vae(CONFIG).state_dict()
    optimizer = torch.optim.Adam(vae.parameters())
    vae.decode(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    history = [{"step": 7, "train/loss": 0.1}]
    state = TrainingState(7, vae.state_dict(), average, optimizer.state_dict(), history)
    folder.mkdir(exist_ok=True)
    save_training(folder, state, CARD, {"any": "thing"})
    return average


def test_a_model_reads_back_bit_for_bit(tmp_path):
    average = saved(tmp_path / "c")
    vae, card = load_model(tmp_path / "c")
    assert not vae.training
    assert (card.model, card.step, card.run_id) == (CONFIG, 7, "run")
    for name, weights in average.items():
        assert torch.equal(vae.state_dict()[name], weights), name


def test_a_training_state_reads_back_bit_for_bit(tmp_path):
    average = saved(tmp_path / "c")
    state = load_training(tmp_path / "c")
    assert state.step == 7
    assert state.history == [{"step": 7, "train/loss": 0.1}]
    assert state.average is not None
    assert all(torch.equal(state.average[name], w) for name, w in average.items())
    assert any(not torch.equal(state.weights[name], w) for name, w in average.items())
    moments = state.optimizer["state"][max(state.optimizer["state"])]
    assert moments["exp_avg"].abs().sum() > 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("load", [load_model, load_training])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_weights_are_refused(tmp_path, load, damage):
    saved(tmp_path / "c")
    damage(tmp_path / "c" / "model.safetensors")
    with pytest.raises((UserError, FileNotFoundError), match=r"model\.safetensors"):
        load(tmp_path / "c")


@pytest.mark.parametrize("name", ["optimizer.pt", "training.json"])
def test_a_damaged_training_checkpoint_is_refused(tmp_path, name):
    saved(tmp_path / "c")
    truncate(tmp_path / "c" / name)
    with pytest.raises(UserError, match=r"damaged|cut short"):
        load_training(tmp_path / "c")


def test_a_hostile_pickle_is_not_executed(tmp_path):
    saved(tmp_path / "c")
    (tmp_path / "c" / "optimizer.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "owned")))
    with pytest.raises(UserError, match="damaged training checkpoint"):
        load_training(tmp_path / "c")
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_model_are_refused(tmp_path):
    other = build_vae(ModelConfig(name="dfc_vae_resnet", latent_size=4)).state_dict()
    save_model(tmp_path, other, CARD)
    with pytest.raises(UserError, match="weights of another model"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "not json", json.dumps({"model": {"name": "x"}})])
def test_a_foreign_card_is_refused(tmp_path, text):
    saved(tmp_path / "c")
    (tmp_path / "c" / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json"):
        load_model(tmp_path / "c")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no model in"):
        load_model(tmp_path)
