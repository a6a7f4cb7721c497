"""The perceptual error of drawn images, with its gradient made on the way.

An image's error depends on that image alone, so that value and gradient can be made for a few
images at a time: their feature maps then stay in the processor's cache, and no map of the whole
batch is ever stored. Legend: B images in a batch, D stored image size, S size of the drawn images,
L feature layers.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from facevae.losses import feature_errors
from facevae.models.perceptual import PerceptualNetwork
from facevae.pixels import to_float

CACHE_BYTES = 6 << 20
"""of one pass through the network on a CPU: what a core's second-level cache and a share of the
third hold; smaller passes gain nothing more, larger ones wait for memory"""


class PerceptualError(NamedTuple):
    """Squared differences of features, float32: the weighted sum over layers, and each layer's."""

    weighted: Float[Tensor, " B"]
    by_layer: Float[Tensor, "B L"]


def perceptual_error(
    network: PerceptualNetwork,
    drawn: Float[Tensor, "B 3 S S"],
    pixels: UInt8[Tensor, "B D D 3"],
    layer_weights: Float[Tensor, " L"],
) -> PerceptualError:
    """The error of drawn images against stored ones, summed per image.

    Target features are made anew each time: those of the original's three layers take 1.5 MB an
    image, which costs more to keep and to read than to compute.

    Args:
        network: the frozen network.
        drawn: float pixels in 0..255.
        pixels: the stored images that they should resemble.
        layer_weights: one factor per layer of the network.

    Returns:
        `weighted`, once differentiable with respect to `drawn`; `by_layer` is a plain value.
    """
    wants_gradient = drawn.requires_grad and torch.is_grad_enabled()
    count = images_at_once(network, drawn.device)
    errors, gradients = [], []
    for some, stored in zip(drawn.detach().split(count), pixels.split(count), strict=True):
        with torch.no_grad():
            targets = network(to_float(stored))
        some.requires_grad_(wants_gradient)
        by_layer = feature_errors(network(some), targets)
        errors.append(by_layer.detach())
        if wants_gradient:
            total = (by_layer * layer_weights).sum()
            gradients += torch.autograd.grad(total, some)
    by_layer = torch.cat(errors)
    weighted = (by_layer * layer_weights).sum(dim=1)
    if wants_gradient:
        weighted = _WithGradient.apply(drawn, weighted, torch.cat(gradients))
    return PerceptualError(weighted, by_layer)


def images_at_once(network: PerceptualNetwork, device: torch.device) -> int:
    """How many images go through the network in one pass.

    A GPU is filled by the whole batch, and has no such cache.
    """
    if device.type != "cpu":
        return 1 << 30
    return max(1, CACHE_BYTES // network.bytes_per_image)


class _WithGradient(torch.autograd.Function):
    """Values, one an image, whose gradient with respect to the images is known."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0].view(-1, 1, 1, 1) * gradient, None, None
