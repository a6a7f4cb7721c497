from pathlib import Path
from typing import get_args

import pytest
import torch
from scipy import ndimage
from torch import distributed, nn
from torch.nn import functional as F

from facevae.config import ModelConfig, ModelName
from facevae.models import Posterior, build_vae
from facevae.models.blocks import Residual, Smooth, UpsampledConv2d
from facevae.training.losses import kl_divergence

PARAMETERS = {
    "dfc_vae": 2_311_403,
    "dfc_vae_resnet": 7_072_379,
    "dfc_vae_large": 5_228_351,
    "dfc_vae_large_v2": 5_232_459,
}
FORMS = ("default", "faithful")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", get_args(ModelName))
def test_trained_parameters_and_shapes(name: ModelName, form: str) -> None:
    vae = build_vae(ModelConfig(name=name, form=form))
    assert sum(p.numel() for p in vae.parameters() if p.requires_grad) == PARAMETERS[name]
    size = 64 if name in ("dfc_vae", "dfc_vae_resnet") else 128
    assert (vae.name, vae.image_size, vae.latent_size) == (name, size, 100)
    assert vae.resize_method == ("tf1" if form == "faithful" else "antialias")
    drawn, posterior = vae(torch.randn(2, 3, size, size), torch.randn(2, 100))
    assert drawn.shape == (2, 3, size, size)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 100)


@pytest.mark.parametrize("form", FORMS)
def test_every_trained_parameter_gets_a_gradient(form: str) -> None:
    vae = build_vae(ModelConfig(form=form))
    drawn, _ = vae(torch.randn(4, 3, 64, 64), torch.randn(4, 100))
    drawn.square().sum().backward()
    assert all(p.grad is not None for p in vae.parameters() if p.requires_grad)


def test_weights_are_cut_normal_and_gamma_is_one() -> None:
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(form="faithful"))
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.abs().max() <= 0.2
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert not module.weight.requires_grad
            assert (module.eps, module.momentum) == (1e-3, pytest.approx(0.005))
    # 0.88 = deviation of a standard normal cut at two
    assert vae.expand.weight.std().item() == pytest.approx(0.088, rel=0.01)


def test_faithful_form_standardises_the_drawn_colours_over_the_batch() -> None:
    drawn = build_vae(ModelConfig(form="faithful")).decode(torch.randn(8, 100))
    assert torch.allclose(drawn.var(dim=(0, 2, 3)), torch.ones(3), atol=0.02)
    assert torch.allclose(drawn.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4)


def test_default_form_starts_from_variance_one() -> None:
    posterior = build_vae(ModelConfig()).encode(torch.randn(2, 3, 64, 64))
    assert posterior.log_variance.eq(0).all()
    assert posterior.mean.std() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_log_variance_is_clamped(form: str) -> None:
    vae = build_vae(ModelConfig(form=form))
    images = torch.randn(2, 3, 64, 64)
    for bias, bound in ((1e3, 10), (-1e3, -30)):
        nn.init.constant_(vae.log_variance.bias, bias)
        assert vae.encode(images).log_variance.eq(bound).all()


def test_sample_follows_the_posterior() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 9.0]]).log1p()
    latents = Posterior(mean, log_variance).sample(torch.randn(100_000, 2))
    torch.testing.assert_close(latents.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(latents.var(0), torch.tensor([1.0, 10.0]), atol=0, rtol=0.05)
    assert torch.equal(Posterior(mean, log_variance).sample(torch.zeros(1, 2)), mean)


def test_a_latent_is_the_same_alone_and_in_any_batch() -> None:
    vae = build_vae(ModelConfig())
    vae(torch.randn(16, 3, 64, 64), torch.randn(16, 100))  # running statistics other than 0 and 1
    vae.eval()
    images = torch.randn(9, 3, 64, 64)
    together = vae.encode(images).mean
    for index in (0, 8):
        alone = vae.encode(images[index : index + 1]).mean[0]
        # The kernels for one image and for nine add up in another order.
        torch.testing.assert_close(alone, together[index], rtol=0, atol=1e-4)


def test_posterior_and_image_are_float32_under_autocast() -> None:
    vae = build_vae(ModelConfig())
    with torch.autocast("cpu", torch.bfloat16):
        drawn, posterior = vae(torch.randn(2, 3, 64, 64), torch.randn(2, 100))
    assert {drawn.dtype, posterior.mean.dtype, posterior.log_variance.dtype} == {torch.float32}


def test_survives_conversion_to_synchronised_batch_norm() -> None:
    vae = build_vae(ModelConfig(form="faithful"))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(vae)
    assert sum(p.numel() for p in converted.parameters() if p.requires_grad) == 2_311_403
    build_vae(ModelConfig(form="faithful")).load_state_dict(converted.state_dict())


def test_trains_under_distributed_data_parallel_and_autocast(tmp_path: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        vae = nn.parallel.DistributedDataParallel(build_vae(ModelConfig(form="faithful")))
        for _ in range(2):  # the second pass fails if a parameter took no part in the first
            with torch.autocast("cpu", torch.bfloat16):
                drawn, posterior = vae(torch.randn(2, 3, 64, 64), torch.randn(2, 100))
            (drawn.square().sum() + kl_divergence(posterior).sum()).backward()
    finally:
        distributed.destroy_process_group()
    assert all(p.grad is not None for p in vae.parameters() if p.requires_grad)


@pytest.mark.parametrize("channels", [3, 5])
def test_upsampled_convolution_is_nearest_neighbour_then_convolution(channels: int) -> None:
    layer = UpsampledConv2d(4, channels, bias=True)
    images = torch.randn(2, 4, 6, 5, requires_grad=True)
    doubled = F.interpolate(images, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(images), expected, atol=1e-5, rtol=1e-5)
    inputs = (images, layer.weight)
    for found, truth in zip(
        torch.autograd.grad(layer(images).square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel_size", "before"), [(4, 1), (3, 1)])
def test_residual_pads_as_tensorflow_and_adds_a_tenth(kernel_size: int, before: int) -> None:
    """A filter of one tap shifts the image by where the padding puts it."""
    block = Residual(1, kernel_size, decay=0.995).eval()
    convolution = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
    nn.init.zeros_(convolution.weight)
    with torch.no_grad():
        convolution.weight[0, 0, before, before] = 1
    images = torch.rand(1, 1, 5, 5)
    change = images / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(block(images), images + 0.1 * change)


def test_the_output_filter_is_the_binomial_one_with_a_repeated_border():
    images = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    expected = images.numpy()
    for axis in (2, 3):
        expected = ndimage.convolve1d(expected, [0.25, 0.5, 0.25], axis, mode="nearest")
    torch.testing.assert_close(Smooth()(images), torch.from_numpy(expected))


def test_no_pattern_of_two_pixels_passes_the_output_filter_and_half_of_one_of_four():
    columns = torch.arange(16.0)
    for period, passed in ((2, 0.0), (4, 0.5)):
        wave = torch.cos(2 * torch.pi * columns / period).expand(1, 1, 16, 16)
        inside = Smooth()(wave)[..., 1:-1]  # beside the border, which is repeated
        torch.testing.assert_close(inside, passed * wave[..., 1:-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", get_args(ModelName))
def test_a_smooth_model_draws_the_filtered_image_of_the_same_weights(name, form):
    torch.manual_seed(0)
    plain = build_vae(ModelConfig(name=name, form=form, latent_size=4)).eval()
    config = ModelConfig(name=name, form=form, latent_size=4, smooth_output=True)
    smooth = build_vae(config).eval()
    weights = dict(zip(smooth.state_dict(), plain.state_dict().values(), strict=True))
    smooth.load_state_dict(weights)
    latents = torch.randn(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(smooth.decode(latents), Smooth()(plain.decode(latents)))
