"""Frozen layers compute what torch's do, and the same gradients."""

import pytest
import torch
from torch import nn

from facevae.perceptual import frozen_layers
from facevae.perceptual.frozen_layers import FrozenConvReLU, FrozenPReLU


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_frozen_prelu_is_prelu(dtype: torch.dtype) -> None:
    slopes = torch.tensor([-0.5, 0.0, 0.25, 0.7])
    reference, frozen = nn.PReLU(4), FrozenPReLU(slopes)
    reference.weight.data = slopes.to(dtype)
    maps = torch.randn(2, 4, 3, 3, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 4, 3, 3, dtype=dtype)
    assert torch.equal(frozen(maps), reference(maps))
    (found,) = torch.autograd.grad((frozen(maps) * weight).sum(), maps)
    (expected,) = torch.autograd.grad((reference(maps) * weight).sum(), maps)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize(
    "places", [{"stride": 2}, {"padding": 1}, {"padding": (0, 3), "dilation": 2}]
)
def test_frozen_convolution_is_the_two_modules(
    monkeypatch, fused: bool, dtype: torch.dtype, tolerance: float, places: dict
) -> None:
    torch.manual_seed(0)
    if not fused:
        monkeypatch.setattr(frozen_layers, "_has_fused_kernel", lambda _: False)
    reference = nn.Sequential(nn.Conv2d(5, 16, 3, **places), nn.ReLU()).requires_grad_(False)
    reference.to(dtype=dtype, memory_format=torch.channels_last)
    layer = FrozenConvReLU(reference[0])
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    maps = torch.randn(2, 5, 12, 11, dtype=dtype).to(memory_format=torch.channels_last)
    maps.requires_grad_()
    expected, found = reference(maps), layer(maps)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(expected)
    (truth,) = torch.autograd.grad((expected * weight).sum(), maps)
    (gradient,) = torch.autograd.grad((found * weight).sum(), maps)
    assert gradient.dtype == dtype
    assert (gradient - truth).norm() <= tolerance * truth.norm()


def test_one_kernel_computes_both_on_this_cpu() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    layer = FrozenConvReLU(nn.Conv2d(3, 4, 3))
    with torch.profiler.profile() as profile:
        layer(torch.randn(1, 3, 8, 8))
    names = {event.key for event in profile.key_averages()}
    assert any("convolution_pointwise" in name for name in names)
    assert not any("relu" in name.lower().replace("_frozenconvrelu", "") for name in names)
