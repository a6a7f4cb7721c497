import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from facevae.config import LossConfig, ModelConfig
from facevae.models import VAE, Posterior, build_vae
from facevae.perceptual.loss import squared_norm
from facevae.perceptual.network import PerceptualNetwork, build_perceptual_network
from facevae.pixels import denormalise
from facevae.training.losses import kl_divergence, pixel_error, total_loss


def test_kl_is_that_of_torch_distributions() -> None:
    posterior = Posterior(torch.randn(5, 7), 2 * torch.randn(5, 7))
    normal = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = torch_kl(normal, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_divergence(posterior), expected)


def test_kl_of_the_prior_is_zero_and_near_it_keeps_its_digits() -> None:
    zeros = torch.zeros(2, 3)
    assert kl_divergence(Posterior(zeros, zeros)).eq(0).all()
    near = kl_divergence(Posterior(zeros, zeros + 1e-4))
    torch.testing.assert_close(near, torch.full((2,), 3 * 0.25e-8), rtol=1e-2, atol=0)


def test_equal_images_have_no_error() -> None:
    images = 255 * torch.rand(2, 3, 64, 64)
    assert pixel_error(images, images).eq(0).all()


def test_errors_are_sums_over_one_image() -> None:
    images = torch.zeros(3, 3, 4, 4)
    others = torch.stack([images[0], images[0] + 1, images[0] - 2])
    assert pixel_error(images, others).tolist() == [0, 48, 192]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 2e-4)]
)
def test_squared_norm_of_maps(dtype: torch.dtype, tolerance: float) -> None:
    """In bfloat16 as exact as a sum in float32 nearly is, although that keeps 8 bits a value."""
    maps = torch.randn(3, 64, 40, 40, dtype=dtype).to(memory_format=torch.channels_last)
    found = squared_norm(maps)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    expected = maps.double().square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]
)
def test_error_and_gradients_agree_with_autograd(dtype: torch.dtype, tolerance: float) -> None:
    """To the rounding of a difference of the dtype, with the error itself in float32."""
    a = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    b = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    weights = torch.tensor([2.0, 3.0])
    expected = ((a.double() - b.double()).square().sum(dim=(1, 2, 3)) * weights).sum()
    found = (pixel_error(a, b) * weights).sum()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
    for gradient, truth in zip(
        torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True
    ):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, truth, rtol=2 * tolerance, atol=tolerance)


def test_total_is_the_originals_at_its_batch_of_128() -> None:
    kl, reconstruction = torch.rand(128), torch.rand(128)
    original = 1.5 * kl.mean() + 0.5 * reconstruction.sum()
    torch.testing.assert_close(total_loss(kl, reconstruction, 1.5, 0.5), original)


def _gradients(
    vae: VAE, network: PerceptualNetwork, images: torch.Tensor, noise: torch.Tensor
) -> list[torch.Tensor]:
    with torch.no_grad():
        targets = network(denormalise(images))
    drawn, posterior = vae(images, noise)
    features = network(denormalise(drawn))
    errors = torch.stack([squared_norm(a - b) for a, b in zip(features, targets, strict=True)])
    errors = errors.sum(dim=0)
    loss = total_loss(kl_divergence(posterior), errors, 1.0, 0.5)
    return list(torch.autograd.grad(loss, [p for p in vae.parameters() if p.requires_grad]))


def test_gradients_of_a_batch_are_the_mean_of_its_halves() -> None:
    """So one rank of 128 images and two ranks of 64 train the same model."""
    torch.manual_seed(0)
    vae, network = build_vae(ModelConfig()).eval(), build_perceptual_network(LossConfig())
    images, noise = torch.randn(128, 3, 64, 64), torch.randn(128, 100)
    whole = _gradients(vae, network, images, noise)
    first = _gradients(vae, network, images[:64], noise[:64])
    second = _gradients(vae, network, images[64:], noise[64:])
    for gradient, a, b in zip(whole, first, second, strict=True):
        error = (gradient - (a + b) / 2).norm() / gradient.norm()
        assert error < 3e-5
