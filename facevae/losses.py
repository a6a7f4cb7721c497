"""Loss terms, one value an image; means over images are taken last, over the global batch.

The original sums its reconstruction error over the batch as well as over an image, while its KL
divergence is a mean over the batch: the balance of the two then depends on the batch that one
loss happens to see, and a data-parallel run trains another model. Here both are means over images
and the reconstruction error is scaled by the original's batch of 128: the same number as the
original at that batch, and the same gradients on 1, 2 or 64 workers.
Legend: B images in a batch, Z latent size, L feature layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from facevae.models.vae import Posterior

REFERENCE_BATCH = 128
"""Images in the batch over which the original sums its reconstruction error."""


def kl_divergence(posterior: Posterior) -> Float[Tensor, " B"]:
    """KL divergence of each posterior from the standard normal, in nats per image, float32.

    -1/2 sum_z (1 + log s^2 - m^2 - s^2): Kingma and Welling, arXiv 1312.6114, appendix B.
    """
    mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
    # expm1 keeps the digits of 1 + log s^2 - s^2 where the variance is near one.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(dim=1)


def pixel_error(
    reconstruction: Float[Tensor, "B 3 S S"], target: Float[Tensor, "B 3 S S"]
) -> Float[Tensor, " B"]:
    """Squared differences of float pixels in 0..255, summed per image, float32."""
    return _squared_error(reconstruction, target)


def feature_errors(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Float[Tensor, "B L"]:
    """Squared differences of features, summed per image and layer, float32.

    Args:
        features: the reconstructions' features, [B,C,h,w] per layer.
        targets: the training images' features, of the same shapes.
    """
    errors = [_squared_error(a, b) for a, b in zip(features, targets, strict=True)]
    return torch.stack(errors, dim=1)


def total_loss(
    kl: Float[Tensor, " B"], reconstruction: Float[Tensor, " B"], alfa: float, beta: float
) -> Float[Tensor, ""]:
    """The scalar that training makes small: alfa * mean KL + beta * 128 * mean reconstruction.

    Means over ranks of equal batches (as DistributedDataParallel takes of gradients) give the
    value of the global batch.

    Args:
        kl: nats per image.
        reconstruction: error per image, of pixels or features.
        alfa: weight of the KL divergence, as the original names it.
        beta: weight of the reconstruction error in the original's scale.
    """
    return alfa * kl.mean() + beta * REFERENCE_BATCH * reconstruction.mean()


class _SquaredError(torch.autograd.Function):
    """Sum of squared differences per image, in one pass over memory each way.

    The gradient keeps the memory format of the features. That of `mse_loss` does not: it comes out
    NCHW, and the layers before it then mix formats, five times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        # The norm adds up bf16 differences as float32, without a copy of them.
        norm = torch.linalg.vector_norm(difference, dim=(1, 2, 3), dtype=_at_least_float32(a))
        error: Tensor = norm.square().float()
        return error

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (difference,) = ctx.saved_tensors
        gradient = difference * (2 * gradients[0]).to(difference.dtype).view(-1, 1, 1, 1)
        return gradient, -gradient if ctx.needs_input_grad[1] else None


def _at_least_float32(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)


def _squared_error(a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    error: Tensor = _SquaredError.apply(a, b)
    return error
