"""A folded network computes what it did before."""

import copy

import pytest
import torch
from torch import nn

from facevae.config import ModelConfig
from facevae.models import build_vae
from facevae.models.folding import fold_batch_norms


@pytest.mark.parametrize("name", ["dfc_vae", "dfc_vae_resnet", "dfc_vae_large", "dfc_vae_large_v2"])
def test_latents_and_drawn_images_stay(name):
    torch.manual_seed(0)
    vae = build_vae(ModelConfig(name=name, latent_size=8))
    images = torch.randn(2, 3, vae.image_size, vae.image_size)
    for _ in range(3):  # so that the running statistics are no longer 0 and 1
        vae(images, torch.randn(2, 8))
    vae.eval()
    folded = copy.deepcopy(vae)
    fold_batch_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        mean, found = vae.encode(images).mean, folded.encode(images).mean
        drawn, found_drawn = vae.decode(mean), folded.decode(mean)
    torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-5 * float(mean.abs().max()))
    torch.testing.assert_close(found_drawn, drawn, rtol=1e-5, atol=1e-5 * float(drawn.abs().max()))
