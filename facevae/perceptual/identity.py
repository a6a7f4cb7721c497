"""Whether two pictures show the same person, by a face network that trained no VAE here.

Legend: B images in a batch, H, W pixels.
"""

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from facevae.config import LossConfig
from facevae.errors import UserError
from facevae.perceptual.weights import fetch_weights, load_weights
from facevae.pixels import resize, to_float

IMAGE_SIZE = 160
"""pixels per side of the faces that InceptionResnetV1 was trained on"""


class IdentityNetwork:
    """InceptionResnetV1 of facenet-pytorch with its embedding (Schroff et al. 2015, 1503.03832)."""

    def __init__(self, weights: str) -> None:
        """Loads pretrained weights by name, or a state-dict file; downloads what is not there.

        Raises:
            UserError: as `fetch_weights` and `load_weights`.
        """
        from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

        config = LossConfig(network="inception_resnet_v1", weights=weights)
        with torch.device("meta"):  # no random weights: every tensor comes from the file
            network: nn.Module = InceptionResnetV1()
        try:
            load_weights(network, fetch_weights(config))
        except UserError as error:
            raise UserError(str(error).replace("loss.weights", "identity_weights")) from error
        self._network = network.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, faces: UInt8[np.ndarray, "B H W 3"]) -> Float32[np.ndarray, "B 512"]:
        """Returns embeddings of length 1, whose product is the cosine of two faces."""
        pixels = resize(to_float(torch.from_numpy(faces)), IMAGE_SIZE, "antialias")
        embeddings: np.ndarray = self._network((pixels - 127.5) / 128).numpy()
        return embeddings
