"""A face network as a judge: one vector of features per image, of pixels alone.

The O-Net of MTCNN gives the 256 values behind its last hidden layer, at its own 48 pixels; it finds
faces and landmarks, and does not know people. InceptionResnetV1 gives FaceNet's embedding of 512
values and length 1. Legend: B images, S image size, F features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from facevae.config import EvaluationConfig, JudgeName, LossConfig
from facevae.errors import UserError
from facevae.models.folding import fold_batch_norms
from facevae.perceptual.network import PerceptualNetwork, build_perceptual_network
from facevae.perceptual.weights import (
    fetch_weights,
    is_same_network,
    load_weights,
    perceptual_weights_digest,
    weights_file,
)
from facevae.pixels import resize, to_float

ONET_SIZE, INCEPTION_SIZE = 48, 160
DISTANCE_LAYERS = {
    "mtcnn_onet": ("conv1", "conv2", "conv3", "conv4"),
    "inception_resnet_v1": ("conv2d_2b", "conv2d_4b", "repeat_1", "repeat_2"),
}
"""whose feature maps the perceptual distance compares"""


class NetworkChoice(NamedTuple):
    """A face network and its weights."""

    network: JudgeName
    weights: str
    """of inception_resnet_v1: as `loss.weights`"""
    digest: str
    """SHA-256 of the weight file"""


class Networks(NamedTuple):
    """Which networks look at pixels, and why one does not judge."""

    features: NetworkChoice
    """of the Frechet and the perceptual distance"""
    is_judge: bool
    """whether it is independent of the model: neither part of it nor of its loss"""
    reason: str
    """why there is no judge; empty: there is one"""

    @property
    def know_people(self) -> bool:
        """Whether the judge was trained to tell people apart."""
        return self.is_judge and self.features.network == "inception_resnet_v1"


class FaceNetwork(nn.Module):
    """Features of pixels by a frozen network in eval mode."""

    def __init__(self, network: nn.Module, name: JudgeName):
        super().__init__()
        self.network = network
        self.is_onet = name == "mtcnn_onet"
        self.requires_grad_(False)
        self.eval()

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float32[Tensor, "B F"]:
        """The features of images of any size."""
        size = ONET_SIZE if self.is_onet else INCEPTION_SIZE
        images = (resize(to_float(pixels), size, "antialias") - 127.5) / 128
        return _onet_features(self.network, images) if self.is_onet else self.network(images)


def choose_networks(config: EvaluationConfig, loss: LossConfig | None) -> Networks:
    """The networks for a model that was trained with a loss; none: it is not known.

    `auto` judges by InceptionResnetV1 where its weights are on this machine, else by the O-Net, but
    never by the network of the model's loss.

    Raises:
        UserError: the network that was asked for is that of the loss, or its weights cannot be had.
    """
    onet = _choice(config, "mtcnn_onet")
    if config.judge != "auto":
        chosen = _choice(config, config.judge)
        if loss is not None and is_same_network(loss, _loss_config(config, chosen.network)):
            raise UserError(
                f"evaluation.judge {config.judge} is the network of the model's own loss, which "
                "would grade itself: name another, or other --evaluation.judge_weights"
            )
        return Networks(chosen, True, "")
    if loss is None:
        reason = (
            "which network the model's loss used is not known here: name one that it did not with "
            "--evaluation.judge"
        )
        return Networks(onet, False, reason)
    names: tuple[JudgeName, ...] = ("inception_resnet_v1", "mtcnn_onet")
    for name in names:
        with _naming_judge_weights():
            is_here = weights_file(_loss_config(config, name)).is_file()
        if is_here and not is_same_network(loss, _loss_config(config, name)):
            return Networks(_choice(config, name), True, "")
    reason = (
        f"the only face network at hand is {onet.network}, that of the model's own loss: give "
        "another with --evaluation.judge inception_resnet_v1 --evaluation.judge_weights FILE"
    )
    return Networks(onet, False, reason)


def load_face_network(choice: NetworkChoice) -> FaceNetwork:
    """The network on the CPU, with its batch norms merged into its convolutions.

    Raises:
        UserError: its weights cannot be had, or do not fit.
    """
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
    from facenet_pytorch.models.mtcnn import ONet

    config = LossConfig(network=choice.network, weights=choice.weights)
    with torch.device("meta"):  # no random weights: every tensor comes from the file
        is_onet = choice.network == "mtcnn_onet"
        network: nn.Module = ONet(pretrained=False) if is_onet else InceptionResnetV1()
    with _naming_judge_weights():
        load_weights(network, fetch_weights(config))
    network.eval()
    fold_batch_norms(network)
    return FaceNetwork(network.to(memory_format=torch.channels_last), choice.network)


def load_distance_network(choice: NetworkChoice) -> PerceptualNetwork:
    """The same network as far as its feature maps of `DISTANCE_LAYERS` go, on the CPU."""
    layers = DISTANCE_LAYERS[choice.network]
    config = LossConfig(network=choice.network, weights=choice.weights, layers=layers)
    with _naming_judge_weights():
        return build_perceptual_network(config)


def _onet_features(
    network: nn.Module, images: Float[Tensor, "B 3 48 48"]
) -> Float32[Tensor, "B 256"]:
    """What the O-Net's heads read."""
    maps = images
    for number in (1, 2, 3, 4):
        maps = getattr(network, f"prelu{number}")(getattr(network, f"conv{number}")(maps))
        if number < 4:
            maps = getattr(network, f"pool{number}")(maps)
    flat = maps.permute(0, 3, 2, 1).flatten(1)
    hidden: Tensor = F.prelu(network.dense5(flat), network.prelu5.weight)  # type: ignore[operator,union-attr,arg-type]
    return hidden


def _loss_config(config: EvaluationConfig, name: JudgeName) -> LossConfig:
    return LossConfig(network=name, weights=config.judge_weights)


def _choice(config: EvaluationConfig, name: JudgeName) -> NetworkChoice:
    with _naming_judge_weights():
        digest = perceptual_weights_digest(_loss_config(config, name))
    return NetworkChoice(name, config.judge_weights, digest)


@contextmanager
def _naming_judge_weights() -> Iterator[None]:
    """A block whose errors about weights name the setting that these come from."""
    try:
        yield
    except UserError as error:
        text = str(error).replace("loss.weights", "evaluation.judge_weights")
        raise UserError(text) from error
