"""The work as a straight port to PyTorch has it: what ours is measured against, and compared with.

Legend: B images in a batch, D stored image size, Z latent size.
"""

import torch
from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
from facenet_pytorch.models.mtcnn import ONet
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from facevae.config import LossConfig, TrainConfig
from facevae.models import build_vae
from facevae.perceptual.network import INCEPTION_STAGES, ONET_STAGES
from facevae.perceptual.weights import fetch_weights, load_weights
from facevae.pixels import denormalise, model_input, to_float
from facevae.training.losses import REFERENCE_BATCH, kl_divergence


class PlainLoss(nn.Module):
    """A VAE with weights from the seed, and its loss: fp32, NCHW, no layer weights."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        torch.manual_seed(config.training.seed)
        self.vae = build_vae(config.model)
        self._features, self._config = _AsShipped(config.loss), config.loss

    def forward(
        self, stored: UInt8[Tensor, "B D D 3"], noise: Float[Tensor, "B Z"]
    ) -> Float[Tensor, ""]:
        """The mean loss of stored images."""
        vae, images = self.vae, to_float(stored).contiguous()
        result = vae(model_input(stored, vae.image_size, "antialias").contiguous(), noise)
        with torch.no_grad():
            targets = self._features(images)
        features = self._features(denormalise(result.images))
        errors = (F.mse_loss(a, b, reduction="sum") for a, b in zip(features, targets, strict=True))
        reconstruction = torch.stack(list(errors)).sum() / len(images)
        kl = kl_divergence(result.posterior).mean()
        return self._config.alfa * kl + self._config.beta * REFERENCE_BATCH * reconstruction


class _AsShipped(nn.Module):
    """A face network as facenet-pytorch ships it: fp32, batch norms by themselves, NCHW."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        is_onet = config.network == "mtcnn_onet"
        self._stages = ONET_STAGES if is_onet else INCEPTION_STAGES
        self._size = config.network_image_size or (64 if is_onet else 160)
        self._wanted = set(config.layers)
        network: nn.Module = ONet(pretrained=False) if is_onet else InceptionResnetV1()
        load_weights(network, fetch_weights(config))
        self._network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The features of the layers asked for."""
        size = (self._size, self._size)
        # Our VAE draws in channels_last; a straight port has nothing of that.
        maps = F.interpolate(images.contiguous(), size, mode="bilinear", align_corners=False)
        maps, features = (maps - 127.5) / 128, []
        for stage in self._stages:
            maps = self._network.get_submodule(stage.name)(maps)
            if stage.alias.startswith("prelu"):
                maps = self._network.get_submodule(stage.alias)(maps)
            if self._wanted & {stage.name, stage.alias}:
                features.append(maps)
            if len(features) == len(self._wanted):
                break
        return features
