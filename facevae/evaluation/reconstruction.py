"""How close reconstructions are to their images: in pixels, in structure, to a network.

Legend: B images in a batch, S image size.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from facevae.perceptual.loss import images_at_once
from facevae.perceptual.network import PerceptualNetwork

WHITE = 255.0
SIGMA, RADIUS = 1.5, 5
"""of SSIM's Gaussian window, in pixels: 11 x 11"""
K1, K2 = 0.01, 0.03
TINY = 1e-10


def psnr(
    images: UInt8[Tensor, "B S S 3"], others: UInt8[Tensor, "B S S 3"]
) -> Float32[Tensor, " B"]:
    """Peak signal-to-noise ratio of each pair, in dB; infinite for equal images."""
    error = (images.float() - others.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(WHITE**2 / error)


def ssim(
    images: UInt8[Tensor, "B S S 3"], others: UInt8[Tensor, "B S S 3"]
) -> Float32[Tensor, " B"]:
    """Structural similarity of each pair, the mean of the three colours'; 1 for equal images.

    Wang et al. 2004, with their window of 11 x 11 pixels (Gaussian, sigma 1.5) and their constants,
    where the window lies inside the image.
    """
    # Moments about mid-grey: in float32 those about black would lose the variance of flat regions.
    x, y = (i.permute(0, 3, 1, 2).float() - WHITE / 2 for i in (images, others))
    moments = _blurred(torch.cat([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + WHITE / 2, mean_y + WHITE / 2
    c1, c2 = (K1 * WHITE) ** 2, (K2 * WHITE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    similarity: Tensor = (luminance * structure).mean(dim=(1, 2, 3))
    return similarity


def perceptual_distance(
    network: PerceptualNetwork,
    images: UInt8[Tensor, "B S S 3"],
    others: UInt8[Tensor, "B S S 3"],
) -> Float32[Tensor, " B"]:
    """The distance of each pair to a face network: 0 for equal images, at most 4.

    At each place of a feature map the features of all channels are a vector, made of length 1; the
    squared distances of both images' vectors are averaged over places and layers: the form of
    Zhang et al. 2018 (LPIPS) without its learned weights.
    """
    parts = []
    count = images_at_once(network, images.device)
    for some, theirs in zip(images.split(count), others.split(count), strict=True):
        layers = zip(network.of_pixels(some), network.of_pixels(theirs), strict=True)
        parts.append(torch.stack([_unit_distance(a, b) for a, b in layers]).mean(dim=0))
    return torch.cat(parts)


def _unit_distance(
    a: Float[Tensor, "B C h w"], b: Float[Tensor, "B C h w"]
) -> Float32[Tensor, " B"]:
    """The mean squared distance of unit vectors: |a|^2 + |b|^2 - 2 a.b, of their lengths."""
    length_a, length_b = (torch.linalg.vector_norm(maps, dim=1).float() for maps in (a, b))
    product = (a * b).sum(dim=1, dtype=torch.float32)
    # A place without any feature has length 0, before and after.
    one_a, one_b = (length / (length + TINY) for length in (length_a, length_b))
    cosine = product / ((length_a + TINY) * (length_b + TINY))
    distance: Tensor = (one_a**2 + one_b**2 - 2 * cosine).clamp(min=0).mean(dim=(1, 2))
    return distance


def _blurred(maps: Float32[Tensor, "B 3 S S"]) -> Float32[Tensor, "B 3 s s"]:
    """The means over SSIM's window, where it lies inside: s = S - 10.

    As two matrix products, which on a CPU take a tenth of the time of convolutions of one channel.
    """
    window = _window(maps.shape[-1]).to(maps.device)
    blurred: Tensor = window @ maps @ window.T
    return blurred


@lru_cache
def _window(size: int) -> Float32[Tensor, "s {size}"]:
    """Each row averages 11 neighbours by Gaussian weights; one place further than the last row."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    rows = torch.zeros(size - 2 * RADIUS, size, dtype=torch.float64)
    for row in range(len(rows)):
        rows[row, row : row + 2 * RADIUS + 1] = weights / weights.sum()
    return rows.float()
