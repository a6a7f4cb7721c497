"""The perceptual error of reconstructions, with its gradient made on the way.

An image's error depends on that image alone, so that value and gradient can be made for a few
images at a time: their feature maps then stay in the processor's cache, and no map of the whole
batch is ever stored. Legend: B images in a batch, D stored image size, S size of the
reconstructions, L feature layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from facevae.perceptual.network import PerceptualNetwork

CACHE_BYTES = 12 << 20
"""of one pass through the network on a CPU; of smaller passes the start of each operation takes
its share, larger ones wait for memory"""


class PerceptualError(NamedTuple):
    """Squared differences of features, float32: the weighted sum over layers, and each layer's."""

    weighted: Float[Tensor, " B"]
    by_layer: Float[Tensor, "B L"]


def perceptual_error(
    network: PerceptualNetwork,
    reconstruction: Float[Tensor, "B 3 S S"],
    pixels: UInt8[Tensor, "B D D 3"],
    layer_weights: Sequence[float],
) -> PerceptualError:
    """The error of reconstructions against stored ones, summed per image.

    Target features are made anew each time: those of the original's three layers take 1.5 MB an
    image in bf16, 312 GB for CelebA. Where they fit into memory (10,000 images into 15 GB) reading
    them takes an eighth of the time of making them, which is a sixth of a step on a CPU and nothing
    on a GPU; from a disk or a network they are no faster.

    Args:
        network: the frozen network.
        reconstruction: float pixels in 0..255.
        pixels: the stored images that they should resemble.
        layer_weights: one factor per layer of the network.

    Returns:
        `weighted`, once differentiable with respect to the reconstruction; `by_layer` is a plain
        value.
    """
    wants_gradient = reconstruction.requires_grad and torch.is_grad_enabled()
    count = images_at_once(network, reconstruction.device)
    errors, gradients = [], []
    for some, stored in zip(reconstruction.detach().split(count), pixels.split(count), strict=True):
        some.requires_grad_(wants_gradient)
        features = network(some)
        with torch.no_grad():
            targets = network.of_pixels(stored)
            differences = [a - b for a, b in zip(features, targets, strict=True)]
            errors.append(torch.stack([squared_norm(each) for each in differences], dim=1))
            if wants_gradient:
                gradients.append(_half_gradient(some, features, differences, layer_weights))
    by_layer = torch.cat(errors)
    layers = zip(layer_weights, by_layer.unbind(dim=1), strict=True)
    weighted = torch.stack([weight * error for weight, error in layers]).sum(dim=0)
    if wants_gradient:
        weighted = _WithGradient.apply(reconstruction, weighted, torch.cat(gradients).mul_(2))
    return PerceptualError(weighted, by_layer)


def squared_norm(differences: Float[Tensor, "B C h w"]) -> Float[Tensor, " B"]:
    """The sum of squares of each image, float32 (float64 of float64).

    Maps of bfloat16 are added up over channels first, rounded once per pixel: as exact as they are
    themselves, and without a copy in float32.
    """
    by_pixel: Tensor = torch.linalg.vector_norm(differences, dim=1)
    by_pixel = by_pixel.to(torch.promote_types(by_pixel.dtype, torch.float32))
    return by_pixel.square().sum(dim=(1, 2))


def images_at_once(network: PerceptualNetwork, device: torch.device) -> int:
    """How many images go through the network in one pass.

    A GPU is filled by the whole batch, and has no such cache.
    """
    if device.type != "cpu":
        return 1 << 30
    return max(1, CACHE_BYTES // network.bytes_per_image)


def _half_gradient(
    images: Tensor,
    features: list[Tensor],
    differences: list[Tensor],
    layer_weights: Sequence[float],
) -> Tensor:
    """Half the gradient of the weighted sum of squares: the 2 comes last, over fewer values."""
    outer = [
        difference if weight == 1 else difference * weight
        for weight, difference in zip(layer_weights, differences, strict=True)
    ]
    (gradient,) = torch.autograd.grad(features, images, outer)
    return gradient


class _WithGradient(torch.autograd.Function):
    """Values, one per image, whose gradient with respect to the images is known."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0].view(-1, 1, 1, 1) * gradient, None, None
