"""Estimates of memory: exact where they can be, and linear in the batch."""

import pytest
import torch

from facevae.config import ModelConfig, TrainConfig
from facevae.models import build_vae
from facevae.training.build import build_trainer
from facevae.training.memory import encoder_memory, step_memory
from facevae.training.step import Criterion, Trainer
from tests.fake_gpu import GPU, Watch, fake_gpu, fake_images

WIKI_LAYERS = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
CONFIG = TrainConfig(model={"latent_size": 8}, training={"ema_decay": 0.9})


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_state_is_what_a_step_leaves():
    pixel = CONFIG.model_copy(update={"loss": CONFIG.loss.model_copy(
        update={"reconstruction": "pixel"})})  # fmt: skip
    memory = step_memory(pixel, 64, 4)
    vae = build_vae(pixel.model)
    criterion = Criterion(pixel.loss, None)
    config = pixel.training.model_copy(update={"global_batch_size": 4})
    learner = Trainer(vae, criterion, config, torch.device("cpu"))
    learner(torch.zeros(4, 64, 64, 3, dtype=torch.uint8), 1)
    assert memory.gradients == nbytes(p.grad for p in vae.parameters() if p.grad is not None)
    moments = [state[key] for state in learner.optimizer.state.values()
               for key in ("exp_avg", "exp_avg_sq")]  # fmt: skip
    assert memory.optimizer == nbytes(moments)
    assert memory.average == memory.weights == nbytes((*vae.parameters(), *vae.buffers()))
    assert memory.network == 0


def test_activations_grow_with_the_images_and_halve_with_bf16():
    one, two, four = (step_memory(CONFIG, 64, count).activations for count in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    wide = CONFIG.training.model_copy(update={"precision": "bf16"})
    half = step_memory(CONFIG.model_copy(update={"training": wide}), 64, 128).activations
    assert 0.4 < half / step_memory(CONFIG, 64, 128).activations < 0.8


def test_the_face_network_is_counted_without_its_weights():
    """Weights that are in no cache and no file: nothing is read or downloaded."""
    loss = {"network": "inception_resnet_v1", "layers": ("Conv2d_1a_3x3",), "weights": "none.pt"}
    judged = step_memory(TrainConfig(model={"latent_size": 8}, loss=loss), 64, 8)
    assert judged.network == (3 * 3 * 3 * 32 + 32) * 4  # one convolution with its norm folded in
    pixel = TrainConfig(model={"latent_size": 8}, loss={"reconstruction": "pixel"})
    assert judged.activations == step_memory(pixel, 64, 8).activations
    assert step_memory(pixel, 64, 8).maps == 0


def test_maps_of_the_face_network_count_for_those_images_that_pass_it_at_once():
    few, many = (step_memory(CONFIG, 64, count).maps for count in (64, 128))
    assert few == many < 64e6
    few, many = (step_memory(CONFIG, 64, count, "cuda").maps for count in (64, 128))
    assert many == 2 * few


@pytest.mark.parametrize(
    ("loss", "precision"),
    [("facenet", "bf16"), ("facenet", "fp32"), ("onet", "bf16"), ("pixel", "fp32")],
)
def test_a_step_on_a_gpu_holds_what_was_estimated(loss, precision):
    """The plan may ask for more than a step takes, not for less."""
    config = TrainConfig(
        loss={
            "facenet": {"network": "inception_resnet_v1", "layers": WIKI_LAYERS, "weights": "none"},
            "onet": {},
            "pixel": {"reconstruction": "pixel"},
        }[loss],
        training={"global_batch_size": 128, "precision": precision},
    )
    memory = step_memory(config, 160, 128, "cuda")
    with fake_gpu():
        trainer, stored = build_trainer(config, GPU), fake_images(128, 160)
        trainer(stored, 1)
        trainer.optimizer.zero_grad(set_to_none=True)
        with Watch() as seen:
            trainer(stored, 2)
    held = memory.weights + memory.optimizer + memory.network + seen.peak
    assert 0.95 < memory.total / held < 1.3


def test_an_encoder_needs_its_weights_and_its_widest_maps():
    model = ModelConfig(latent_size=8)
    vae = build_vae(model)
    weights = nbytes((*vae.parameters(), *vae.buffers()))
    one, two = encoder_memory(model, 1), encoder_memory(model, 2)
    assert one - (two - one) == pytest.approx(weights)
    assert two - one > 64 * 64 * 3 * 4
