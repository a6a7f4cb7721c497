"""The residual VAE of 64x64 pixels: dfc_vae with three residual blocks after each stage.

As in the original's `src/generative/models/dfc_vae_resnet.py`, whose decoder repeats blocks at
3 channels too and draws with one more convolution. 7,072,379 trained parameters at latent size 100.
"""

from torch import nn

from facevae.config import ModelConfig
from facevae.models.blocks import Residual, doubled, drawn, halved
from facevae.models.vae import VAE


def dfc_vae_resnet(config: ModelConfig) -> VAE:
    """Four halvings to the latent, four doublings back, each refined three times; then draws."""
    decay = config.batch_norm_decay
    encoder = nn.Sequential(
        _refined(halved(3, 32, decay), 32, 4, decay),
        _refined(halved(32, 64, decay), 64, 4, decay),
        _refined(halved(64, 128, decay), 128, 4, decay),
        _refined(halved(128, 256, decay), 256, 4, decay),
    )
    decoder = nn.Sequential(
        _refined(doubled(256, 128, decay), 128, 3, decay),
        _refined(doubled(128, 64, decay), 64, 3, decay),
        _refined(doubled(64, 32, decay), 32, 3, decay),
        _refined(doubled(32, 3, decay), 3, 3, decay),
        drawn(3, config, doubling=False),
    )
    return VAE(config, 64, encoder, 256, decoder)


def _refined(block: nn.Module, channels: int, kernel_size: int, decay: float) -> nn.Sequential:
    residuals = (Residual(channels, kernel_size, decay) for _ in range(3))
    return nn.Sequential(block, *residuals)
