"""The network that judges identity."""

import numpy as np
import pytest
import torch
from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

from facevae.config import LossConfig
from facevae.errors import UserError
from facevae.perceptual.identity import IdentityNetwork
from facevae.perceptual.weights import is_same_network


@pytest.fixture(scope="module")
def network() -> InceptionResnetV1:
    """One of random weights."""
    torch.manual_seed(0)
    return InceptionResnetV1().eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> str:
    """Their file."""
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def test_embeddings_are_facenet_pytorchs(network, weights):
    faces = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    with torch.no_grad():
        expected = network((torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127.5) / 128)
    found = IdentityNetwork(weights).embed(faces)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_weights_that_are_not_there_name_their_setting():
    with pytest.raises(UserError, match="identity_weights: expected vggface2, casia-webface"):
        IdentityNetwork("nowhere.pt")


def test_the_losss_own_network_is_told(weights, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(open(weights, "rb").read())  # noqa: PTH123, SIM115
    other = tmp_path / "other.pt"
    other.write_bytes(copy.read_bytes() + b"more")

    def inception(of: str) -> LossConfig:
        return LossConfig(network="inception_resnet_v1", weights=of)

    loss = inception(weights)
    assert is_same_network(loss, inception(str(copy)))
    assert not is_same_network(loss, inception(str(other)))
    assert is_same_network(inception("vggface2"), inception("vggface2"))
    assert not is_same_network(inception("vggface2"), inception("casia-webface"))
    # What is gone cannot be told from another, and nobody is to judge himself.
    assert is_same_network(inception(str(tmp_path / "gone.pt")), loss)
    assert not is_same_network(LossConfig(), loss)
    assert not is_same_network(LossConfig(reconstruction="pixel"), loss)
