"""The variational autoencoder: images to a posterior over latents, and latents to images.

Written for one device; DistributedDataParallel and autocast may be wrapped around it.
Legend: B images in a batch, S image size, Z latent size.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from facevae.config import ModelConfig, ModelName
from facevae.pixels import ResizeMethod

MAP_SIZE = 4  # pixels of the square feature map between convolutions and latent, in every model
MAP_CHANNELS = 256  # of the map that a decoder starts from


class Posterior(NamedTuple):
    """A normal distribution over latents for each image; float32 [B,Z] each."""

    mean: Float[Tensor, "B Z"]
    log_variance: Float[Tensor, "B Z"]

    def sample(self, noise: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        """Latents sampled by the reparameterisation trick, from standard normal noise."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Reconstruction(NamedTuple):
    """What one training pass makes: the reconstructed images, and the posterior they came from."""

    images: Float[Tensor, "B 3 S S"]
    posterior: Posterior


class VAE(nn.Module):
    """Encoder, two linear heads, and decoder; images are normalised, see `facevae.pixels`.

    A latent is `encode(x).mean` in eval mode: it does not depend on the rest of the batch.
    Feature maps are flattened height, width, channel, as in TensorFlow: the original's weights
    then import as they are, and channels_last maps need no copy.
    """

    name: ModelName
    image_size: int
    latent_size: int
    resize_method: ResizeMethod

    def __init__(
        self,
        config: ModelConfig,
        image_size: int,  # S, pixels of the square images that are read and made
        encoder: nn.Module,  # [B,3,S,S] to [B,encoder_channels,4,4]
        encoder_channels: int,
        decoder: nn.Module,  # [B,256,4,4] to [B,3,S,S]
    ):
        super().__init__()
        self.name = config.name
        self.image_size = image_size
        self.latent_size = config.latent_size
        self.resize_method = "tf1" if config.form == "faithful" else "antialias"
        features = MAP_SIZE * MAP_SIZE * encoder_channels
        self.encoder = encoder
        self.mean = nn.Linear(features, config.latent_size)
        self.log_variance = nn.Linear(features, config.latent_size)
        self.expand = nn.Linear(config.latent_size, MAP_SIZE * MAP_SIZE * MAP_CHANNELS)
        self.decoder = decoder
        self.apply(_initialise)
        if config.form == "default":
            # A random head starts at a standard deviation of 4, and a KL of 1e5 nats an image.
            nn.init.zeros_(self.log_variance.weight)

    def encode(self, images: Float[Tensor, "B 3 S S"]) -> Posterior:
        """The posterior of normalised images, in float32 under autocast too.

        Log-variances are clamped to [-30, 10], so that their exponentials stay finite.
        """
        maps = self.encoder(images.contiguous(memory_format=torch.channels_last))
        features = maps.permute(0, 2, 3, 1).flatten(1)
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return Posterior(self.mean(features), self.log_variance(features).clamp(-30, 10))

    def decode(self, latents: Float[Tensor, "B Z"]) -> Float[Tensor, "B 3 S S"]:
        """Normalised images of latents, float32, not clipped to the range of pixels."""
        maps = self.expand(latents).unflatten(1, (MAP_SIZE, MAP_SIZE, MAP_CHANNELS))
        images: Tensor = self.decoder(maps.permute(0, 3, 1, 2))
        return images.float()

    def forward(
        self, images: Float[Tensor, "B 3 S S"], noise: Float[Tensor, "B Z"]
    ) -> Reconstruction:
        """Encode, sample with the given standard normal noise, decode: one training pass.

        DistributedDataParallel synchronises gradients of its `forward` only, hence all in one.
        """
        posterior = self.encode(images)
        return Reconstruction(self.decode(posterior.sample(noise)), posterior)


def _initialise(module: nn.Module) -> None:
    """Draws weights as the original: normal of deviation 0.1 cut at two; biases are zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
