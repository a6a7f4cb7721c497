"""The plain VAE of 64x64 pixels, after 'Deep Feature Consistent Variational Autoencoder'.

arXiv 1610.00291, figure 2, as in the original's `src/generative/models/dfc_vae.py`: zero padding
where the paper replicates borders. 2,311,403 trained parameters at latent size 100.
"""

from torch import nn

from facevae.config import ModelConfig
from facevae.models.blocks import downsample, to_rgb, upsample
from facevae.models.vae import VAE


def dfc_vae(config: ModelConfig) -> VAE:
    """Four halvings to the latent, four doublings back; the last doubling draws."""
    decay = config.batch_norm_decay
    encoder = nn.Sequential(
        downsample(3, 32, decay),
        downsample(32, 64, decay),
        downsample(64, 128, decay),
        downsample(128, 256, decay),
    )
    decoder = nn.Sequential(
        upsample(256, 128, decay),
        upsample(128, 64, decay),
        upsample(64, 32, decay),
        to_rgb(32, config, upsampling=True),
    )
    return VAE(config, 64, encoder, 256, decoder)
