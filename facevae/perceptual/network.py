"""Frozen face networks whose features judge a reconstruction.

Two networks of facenet-pytorch: InceptionResnetV1, the original's, and the O-Net of MTCNN, whose
weights ship with the package. It is imported where a network is built: with torchvision it takes
as long as torch, and most processes build none.

Legend: B images in a batch, H,W pixels, C channels.
"""

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from facevae.config import LossConfig
from facevae.errors import UserError
from facevae.models.folding import fold_batch_norms
from facevae.perceptual.frozen_layers import FrozenConvReLU, FrozenPReLU
from facevae.perceptual.weights import check_weights, fetch_weights, load_weights
from facevae.pixels import ResizeMethod, resize, to_float


class Stage(NamedTuple):
    """One step of a network, and a layer that can be asked for."""

    name: str  # in facenet-pytorch
    alias: str  # in the original; for O-Net, of the activation
    kernel: int  # pixels of the stage's input that an output pixel needs at least
    stride: int


INCEPTION_STAGES = (
    Stage("conv2d_1a", "Conv2d_1a_3x3", 3, 2),
    Stage("conv2d_2a", "Conv2d_2a_3x3", 3, 1),
    Stage("conv2d_2b", "Conv2d_2b_3x3", 1, 1),
    Stage("maxpool_3a", "MaxPool_3a_3x3", 3, 2),
    Stage("conv2d_3b", "Conv2d_3b_1x1", 1, 1),
    Stage("conv2d_4a", "Conv2d_4a_3x3", 3, 1),
    Stage("conv2d_4b", "Conv2d_4b_3x3", 3, 2),
    Stage("repeat_1", "Mixed_5a", 1, 1),
    Stage("mixed_6a", "Mixed_6a", 3, 2),
    Stage("repeat_2", "Mixed_6b", 1, 1),
    Stage("mixed_7a", "Mixed_7a", 3, 2),
    Stage("repeat_3", "Mixed_8a", 1, 1),
    Stage("block8", "Block8", 1, 1),
)
ONET_STAGES = (
    Stage("conv1", "prelu1", 3, 1),
    Stage("pool1", "pool1", 3, 2),
    Stage("conv2", "prelu2", 3, 1),
    Stage("pool2", "pool2", 3, 2),
    Stage("conv3", "prelu3", 3, 1),
    Stage("pool3", "pool3", 2, 2),
    Stage("conv4", "prelu4", 2, 1),
)


class PerceptualNetwork(nn.Module):
    """Features of a frozen face network; gradients reach the images, never the weights.

    It stays in eval mode whatever `train()` is called on. Keep it out of the VAE's module tree:
    it belongs neither in checkpoints nor in DistributedDataParallel.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],  # up to the deepest layer asked for
        outputs: Sequence[int],  # which stages' results are wanted, in the order wanted
        layers: tuple[str, ...],  # their names as the user gave them
        image_size: int,  # pixels of the square images that the network sees
        resize_method: ResizeMethod = "antialias",
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.outputs = tuple(outputs)
        self.layers = layers
        self.image_size = image_size
        self.resize_method: ResizeMethod = resize_method
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()
        self._elements, self._elements_before_prelu = _elements(self.stages, image_size)

    @property
    def bytes_per_image(self) -> int:
        """The size of all feature maps of one image, in the precision of the weights."""
        return self._elements * self._dtype.itemsize

    @property
    def bytes_before_prelu(self) -> int:
        """The size of all maps of one image that a PReLU reads, whose gradient needs them."""
        return self._elements_before_prelu * self._dtype.itemsize

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """The network itself, in eval mode."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Features [B,C,h,w] for each of `layers`, in that order, in the dtype of the weights.

        Args:
            images: float pixels in 0..255 of any size; resized to `image_size`, and scaled to
                about -1..1 as both networks were trained: (x - 127.5) / 128.
        """
        # Resizing is linear with weights that add up to one: scale whichever has fewer pixels.
        enlarges = images.shape[-1] < self.image_size
        maps = self._resize(_scale(images)) if enlarges else _scale(self._resize(images))
        maps = maps.to(self._dtype, memory_format=torch.channels_last)
        results: dict[int, Tensor] = {}
        for index, stage in enumerate(self.stages):
            maps = stage(maps)
            if index in self.outputs:
                results[index] = maps
        return [results[index] for index in self.outputs]

    def of_pixels(self, pixels: UInt8[Tensor, "B H W 3"]) -> list[Tensor]:
        """The features of stored images, as `forward` has them."""
        fits = pixels.shape[1:3] == (self.image_size, self.image_size)
        # Whole numbers up to 255 are exact in half precision, and so are they when scaled.
        return self.forward(to_float(pixels, self._dtype if fits else torch.float32))

    def _resize(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        return resize(images, self.image_size, self.resize_method)


def _scale(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """(x - 127.5) / 128, in one pass."""
    return torch.add(torch.tensor(-127.5 / 128), images, alpha=1 / 128)


def _elements(stages: nn.ModuleList, image_size: int) -> tuple[int, int]:
    """The elements of all stages' results for one image, and of what PReLUs read."""
    maps = torch.empty(1, 3, image_size, image_size, device="meta")
    elements = before_prelu = 0
    for stage in copy.deepcopy(stages).to("meta"):
        maps = stage(maps)
        elements += maps.numel()
        if any(isinstance(module, FrozenPReLU) for module in stage.modules()):
            before_prelu += maps.numel()  # it changes no shape
    return elements, before_prelu


def check_perceptual_network(config: LossConfig) -> None:
    """Checks layer names, image size and form of the weight file; downloads nothing.

    Pretrained weights that are not in torch's cache yet pass; `fetch_weights` gets them.

    Raises:
        UserError: an unknown layer, an image too small for it, or no such weight file.
    """
    outputs = _outputs(config)
    _check_size(config, max(outputs))
    check_weights(config)


def build_perceptual_network(
    config: LossConfig, fold: bool = True, resize_method: ResizeMethod = "antialias"
) -> PerceptualNetwork:
    """The configured network on the CPU, cut off after the deepest layer asked for.

    Args:
        config: the loss.
        fold: merge each batch norm into its convolution; same features to rounding, faster.
        resize_method: how images reach the network's size; `tf1` beside a faithful VAE, whose
            pixels lie where TensorFlow 1 samples.

    Raises:
        UserError: as `check_perceptual_network`; or weights that cannot be had or do not fit.
    """
    network = _without_weights(config)
    load_weights(network, fetch_weights(config))
    return _cut_off(network, config, fold, resize_method)


def empty_perceptual_network(
    config: LossConfig, resize_method: ResizeMethod = "antialias"
) -> PerceptualNetwork:
    """The same with all weights zero, read from nowhere: for its shapes and sizes.

    Raises:
        UserError: as `check_perceptual_network`, weight files aside.
    """
    network = _without_weights(config).to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.zero_()
    return _cut_off(network, config, True, resize_method)


def _without_weights(config: LossConfig) -> nn.Module:
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
    from facenet_pytorch.models.mtcnn import ONet

    _check_size(config, max(_outputs(config)))
    with torch.device("meta"):  # no random weights: every tensor comes from the file
        network: nn.Module = ONet(pretrained=False) if _is_onet(config) else InceptionResnetV1()
    return network


def _cut_off(
    network: nn.Module, config: LossConfig, fold: bool, resize_method: ResizeMethod
) -> PerceptualNetwork:
    """The stages of a whole network up to the deepest layer asked for."""
    outputs = _outputs(config)
    network.eval()
    stages = [_stage(network, stage) for stage in _stages(config)[: max(outputs) + 1]]
    if fold:
        for stage in stages:
            _fold(stage)
    return PerceptualNetwork(stages, outputs, config.layers, _image_size(config), resize_method)


def _is_onet(config: LossConfig) -> bool:
    return config.network == "mtcnn_onet"


def _stages(config: LossConfig) -> tuple[Stage, ...]:
    return ONET_STAGES if _is_onet(config) else INCEPTION_STAGES


def _image_size(config: LossConfig) -> int:
    return config.network_image_size or (64 if _is_onet(config) else 160)


def _outputs(config: LossConfig) -> list[int]:
    """Index of the stage of each layer asked for."""
    names: dict[str, int] = {}
    for index, stage in enumerate(_stages(config)):
        names |= {stage.name: index, stage.alias: index}
    for layer in config.layers:
        if layer not in names:
            close = get_close_matches(layer, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(
                f"loss.layers: {config.network} has no layer {layer!r}; {hint}"
                f"it has {', '.join(names)}"
            )
    return [names[layer] for layer in config.layers]


def _check_size(config: LossConfig, deepest: int) -> None:
    smallest = 1
    for stage in reversed(_stages(config)[: deepest + 1]):
        smallest = (smallest - 1) * stage.stride + stage.kernel
    if _image_size(config) < smallest:
        raise UserError(
            f"loss.network_image_size: layer {_stages(config)[deepest].name!r} of {config.network} "
            f"needs images of {smallest} pixels or more, found {_image_size(config)}; enlarge the "
            "images or ask for an earlier layer"
        )


def _stage(network: nn.Module, stage: Stage) -> nn.Module:
    """The stage's module; a convolution of O-Net with its activation."""
    module = network.get_submodule(stage.name)
    if not stage.alias.startswith("prelu"):
        return module
    return nn.Sequential(module, FrozenPReLU(network.get_parameter(f"{stage.alias}.weight")))


def _fold(stage: nn.Module) -> None:
    from facenet_pytorch.models.inception_resnet_v1 import BasicConv2d

    fold_batch_norms(stage)
    for block in stage.modules():
        if isinstance(block, BasicConv2d):
            block.conv, block.relu = FrozenConvReLU(block.conv), nn.Identity()
