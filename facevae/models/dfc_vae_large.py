"""The VAEs of 128x128 pixels: the original's, and one that can draw what 128 pixels can show.

`dfc_vae_large` is the original's `src/generative/models/dfc_vae_large.py`, 5,228,351 trained
parameters at latent size 100. Its decoder squeezes the image through 3 channels at 64x64 pixels, so
that the last doubling adds no detail. `dfc_vae_large_v2` keeps 16 channels there: 5,232,459.
"""

from torch import nn

from facevae.config import ModelConfig
from facevae.models.blocks import downsample, to_rgb, upsample
from facevae.models.vae import VAE


def dfc_vae_large(config: ModelConfig) -> VAE:
    """Five halvings to the latent, five doublings back, through 3 channels before the last."""
    return _large(config, channels_before_last=3)


def dfc_vae_large_v2(config: ModelConfig) -> VAE:
    """The same with 16 channels before the last doubling."""
    return _large(config, channels_before_last=16)


def _large(config: ModelConfig, channels_before_last: int) -> VAE:
    decay = config.batch_norm_decay
    encoder = nn.Sequential(
        downsample(3, 32, decay),
        downsample(32, 64, decay),
        downsample(64, 128, decay),
        downsample(128, 256, decay),
        downsample(256, 512, decay),
    )
    decoder = nn.Sequential(
        upsample(256, 128, decay),
        upsample(128, 64, decay),
        upsample(64, 32, decay),
        upsample(32, channels_before_last, decay),
        to_rgb(channels_before_last, config, upsampling=True),
    )
    return VAE(config, 128, encoder, 512, decoder)
