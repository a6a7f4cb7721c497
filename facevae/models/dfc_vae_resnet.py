"""The residual VAE of 64x64 pixels: dfc_vae with three residual blocks after each stage.

As in the original's `src/generative/models/dfc_vae_resnet.py`, whose decoder repeats blocks at
3 channels too and draws with one more convolution. 7,072,379 trained parameters at latent size 100.
"""

from torch import nn

from facevae.config import ModelConfig
from facevae.models.blocks import Residual, downsample, to_rgb, upsample
from facevae.models.vae import VAE


def dfc_vae_resnet(config: ModelConfig) -> VAE:
    """Four halvings to the latent, four doublings back, each refined three times; then draws."""
    decay = config.batch_norm_decay
    encoder = nn.Sequential(
        residual_stage(downsample(3, 32, decay), 32, 4, decay),
        residual_stage(downsample(32, 64, decay), 64, 4, decay),
        residual_stage(downsample(64, 128, decay), 128, 4, decay),
        residual_stage(downsample(128, 256, decay), 256, 4, decay),
    )
    decoder = nn.Sequential(
        residual_stage(upsample(256, 128, decay), 128, 3, decay),
        residual_stage(upsample(128, 64, decay), 64, 3, decay),
        residual_stage(upsample(64, 32, decay), 32, 3, decay),
        residual_stage(upsample(32, 3, decay), 3, 3, decay),
        to_rgb(3, config, upsampling=False),
    )
    return VAE(config, 64, encoder, 256, decoder)


def residual_stage(
    block: nn.Module, channels: int, kernel_size: int, decay: float
) -> nn.Sequential:
    """A block and three residual blocks after it."""
    residuals = (Residual(channels, kernel_size, decay) for _ in range(3))
    return nn.Sequential(block, *residuals)
