"""FaceNet with random weights: the speed of a face network does not depend on them."""

from pathlib import Path

import torch
from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
from safetensors.torch import save_file
from torch import nn

from facevae.runs import storage

WIKI_LAYERS = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
"""the layers of the original's perceptual loss"""


def random_face_network(folder: Path) -> str:
    """A file of weights in a folder, made the first time."""
    file = folder / "facenet-random.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        state = InceptionResnetV1().state_dict()
        for name, values in state.items():  # else merging batch norms would change nothing
            if name.endswith(("running_var", "bn.weight")):
                nn.init.uniform_(values, 0.5, 1.5)
            elif name.endswith(("running_mean", "bn.bias")):
                nn.init.uniform_(values, -0.2, 0.2)
        with storage.atomic_file(str(file)) as path:
            save_file(state, path)
    return str(file)
