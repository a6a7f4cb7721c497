"""PSNR and SSIM are scikit-image's; the perceptual distance is one."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from facevae.config import LossConfig
from facevae.evaluation.reconstruction import perceptual_distance, psnr, ssim
from facevae.perceptual.network import build_perceptual_network


def faces(count: int, size: int, seed=0) -> np.ndarray:
    """Smooth pictures with flat bright regions, where a variance is easily lost."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    phases = random.uniform(1, 9, (count, 3, 2))
    waves = np.sin(phases[..., 0, None, None] * rows) + np.cos(phases[..., 1, None, None] * columns)
    pictures = 127 + 80 * waves.transpose(0, 2, 3, 1)
    pictures[: count // 2, : size // 2] = 250
    return pictures.clip(0, 255).astype(np.uint8)


def noisy(images: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, deviation, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [11, 64, 97])
@pytest.mark.parametrize("deviation", [1, 20, 90])
def test_psnr_and_ssim_are_those_of_scikit_image(size, deviation):
    images = faces(4, size)
    others = noisy(images, deviation)
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
            channel_axis=-1,
        )
        for a, b in zip(images, others, strict=True)
    ]  # fmt: skip
    pair = torch.from_numpy(images), torch.from_numpy(others)
    np.testing.assert_allclose(ssim(*pair).numpy(), expected, atol=1e-4)
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(images, others, strict=True)]
    np.testing.assert_allclose(psnr(*pair).numpy(), expected, rtol=1e-5)


def test_equal_images():
    images = torch.from_numpy(faces(2, 32))
    assert ssim(images, images).tolist() == pytest.approx([1, 1])
    assert psnr(images, images).tolist() == [float("inf")] * 2


def test_the_perceptual_distance_grows_with_noise_and_is_symmetric():
    network = build_perceptual_network(LossConfig())
    images = faces(3, 64)
    stored = torch.from_numpy(images)
    with torch.inference_mode():
        found = [
            perceptual_distance(network, stored, torch.from_numpy(noisy(images, deviation)))
            for deviation in (0, 10, 60)
        ]
        other = torch.from_numpy(noisy(images, 60))
        back = perceptual_distance(network, other, stored)
    assert (found[0] < 1e-6).all()
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()
    assert (found[2] < 4).all()
    torch.testing.assert_close(found[2], back)
