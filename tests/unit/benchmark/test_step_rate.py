"""Operations are counted as torch counts them, and a device's peak is above what a step does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from facevae.benchmark import step_rate
from facevae.benchmark.step_rate import Steps, matrix_peak, operations_per_image
from facevae.config import TrainConfig
from facevae.perceptual.frozen_layers import FrozenConvReLU
from facevae.training.build import build_trainer

BATCH, SIZE = 4, 64


def steps(precision: str, **loss: object) -> Steps:
    config = TrainConfig(
        shards="unused",
        output="unused",
        loss=loss,
        training={"global_batch_size": BATCH, "precision": precision},
    )
    return Steps(config, "unused", 1, 1)


@pytest.fixture
def stored(monkeypatch) -> torch.Tensor:
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8)
    monkeypatch.setattr(step_rate, "resident_batch", lambda _: images)
    return images


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_operations_of_a_step_are_torchs_own_count(stored, precision):
    pixel = steps(precision, reconstruction="pixel")
    trainer = build_trainer(pixel.config, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        trainer(stored, 1)
    assert operations_per_image(pixel) == counter.get_total_flops() / BATCH


def test_a_face_network_adds_two_passes_and_the_gradient_of_one(stored):
    """Three times the operations of O-Net's three convolutions; the gradients are as costly."""
    pixel, perceptual = steps("bf16", reconstruction="pixel"), steps("bf16")
    added = operations_per_image(perceptual) - operations_per_image(pixel)
    shapes = [(3, 32, 62), (32, 64, 29), (64, 64, 12)]
    once = sum(
        conv_flop_count([1, i, 0, 0], [o, i, 3, 3], [1, o, size, size]) for i, o, size in shapes
    )
    assert added == 3 * once


def test_a_fused_convolution_counts_as_a_convolution():
    layer = FrozenConvReLU(torch.nn.Conv2d(3, 8, 3, stride=2))
    images = torch.rand(2, 3, 9, 9)
    with step_rate._Operations() as counted:
        maps = layer(images)
    assert counted.number == conv_flop_count([2, 3, 9, 9], [8, 3, 3, 3], list(maps.shape))


def test_a_matrix_product_is_timed():
    assert matrix_peak(steps("fp32")) > 1e8
