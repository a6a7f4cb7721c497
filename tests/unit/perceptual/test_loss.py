"""The error that is made in parts is that of the whole batch, and so is its gradient."""

import pytest
import torch

from facevae.config import LossConfig
from facevae.perceptual import loss
from facevae.perceptual.loss import perceptual_error
from facevae.perceptual.network import PerceptualNetwork, build_perceptual_network
from facevae.pixels import to_float

WEIGHTS = (1.0, 0.5, 2.0)


@pytest.fixture
def network() -> PerceptualNetwork:
    return build_perceptual_network(LossConfig())


def _images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    stored = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
    return 255 * torch.rand(count, 3, 48, 48), stored


def _slowly(
    network: PerceptualNetwork, drawn: torch.Tensor, stored: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By autograd through one pass over the whole batch."""
    pairs = zip(network(drawn), network(to_float(stored)), strict=True)
    by_layer = torch.stack([(a - b).square().sum(dim=(1, 2, 3)) for a, b in pairs], dim=1)
    return by_layer @ torch.tensor(WEIGHTS), by_layer


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_value_and_gradient_are_those_of_one_pass(network, monkeypatch, at_once):
    drawn, stored = _images(7)
    drawn.requires_grad_()
    monkeypatch.setattr(loss, "CACHE_BYTES", at_once * network.bytes_per_image)
    outer = torch.linspace(-1, 2, 7)  # what each image's error counts in a loss
    expected, expected_by_layer = _slowly(network, drawn, stored)
    found = perceptual_error(network, drawn, stored, WEIGHTS)
    torch.testing.assert_close(found.weighted, expected)
    torch.testing.assert_close(found.by_layer, expected_by_layer)
    assert not found.by_layer.requires_grad
    (truth,) = torch.autograd.grad(expected @ outer, drawn)
    (gradient,) = torch.autograd.grad(found.weighted @ outer, drawn)
    torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))


def test_no_gradient_is_made_where_none_is_wanted(network):
    drawn, stored = _images(2)
    calls = []
    network.stages[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert not perceptual_error(network, drawn, stored, WEIGHTS).weighted.requires_grad
    with torch.no_grad():
        error = perceptual_error(network, drawn.requires_grad_(), stored, WEIGHTS)
    assert not error.weighted.requires_grad
    assert calls == [True, False, False, False]


def test_a_network_in_bf16_computes_what_autocast_does(network):
    drawn, stored = _images(3)
    drawn.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        slow = perceptual_error(network, drawn, stored, WEIGHTS)
    (slow_gradient,) = torch.autograd.grad(slow.weighted.sum(), drawn)
    fast = perceptual_error(network.to(torch.bfloat16), drawn, stored, WEIGHTS)
    (fast_gradient,) = torch.autograd.grad(fast.weighted.sum(), drawn)
    assert fast.weighted.dtype == torch.float32
    torch.testing.assert_close(fast.weighted, slow.weighted, rtol=2e-3, atol=0)
    difference = (fast_gradient - slow_gradient).norm() / slow_gradient.norm()
    assert difference < 0.02


def test_the_maps_of_all_stages_count(network):
    sizes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, __, maps: sizes.append(maps.nbytes))
    network(torch.zeros(1, 3, 64, 64))
    assert network.bytes_per_image == sum(sizes)
    assert network.to(torch.bfloat16).bytes_per_image == sum(sizes) // 2
