"""The VAEs by name."""

from facevae.config import ModelConfig
from facevae.models.dfc_vae import dfc_vae
from facevae.models.dfc_vae_large import dfc_vae_large, dfc_vae_large_v2
from facevae.models.dfc_vae_resnet import dfc_vae_resnet
from facevae.models.vae import VAE, Posterior, Reconstruction

__all__ = ["VAE", "Posterior", "Reconstruction", "build_vae"]


def build_vae(config: ModelConfig) -> VAE:
    """A new VAE of the configuration, in training mode, with weights from torch's generator."""
    match config.name:
        case "dfc_vae":
            return dfc_vae(config)
        case "dfc_vae_resnet":
            return dfc_vae_resnet(config)
        case "dfc_vae_large":
            return dfc_vae_large(config)
        case "dfc_vae_large_v2":
            return dfc_vae_large_v2(config)
