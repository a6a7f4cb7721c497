"""Loss terms, one value per image; means over images are taken last, over the global batch.

The original sums its reconstruction error over the batch as well as over an image, while its KL
divergence is a mean over the batch: the balance of the two then depends on the batch that one
loss happens to see, and a data-parallel run trains another model. Here both are means over images
and the reconstruction error is scaled by the original's batch of 128: the same number as the
original at that batch, and the same gradients on 1, 2 or 64 workers.
Legend: B images in a batch, Z latent size.
"""

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
    return (reconstruction - target).float().square().sum(dim=(1, 2, 3))


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
