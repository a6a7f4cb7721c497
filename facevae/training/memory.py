"""How much memory a training step and an encoder take, estimated without a GPU.

Counted are weights, gradients, Adam's two moments, the moving average, the stored images as floats,
the frozen face network, its feature maps of as many images as pass through it at once, and the
activations that a step keeps for its backward pass; not counted is what a library needs beside
(kernels' work space, allocators' reserves), for which a quarter of the activations is added.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facevae.config import LossConfig, ModelConfig, TrainConfig
from facevae.models import VAE, build_vae
from facevae.models.vae import Reconstruction
from facevae.perceptual.loss import images_at_once
from facevae.perceptual.network import empty_perceptual_network
from facevae.pixels import model_input
from facevae.training.build import DTYPES
from facevae.training.step import Criterion

WORK_SPACE = 0.25
"""share of the activations that is added for what is not counted"""
COPIES_OF_MAPS = 4
"""of the face network's maps: targets, reconstructions, their differences and their gradients"""
COPIES_OF_PIXELS = 2
"""of the stored images as float32: as the VAE reads them, and as the face network does"""
PROCESS = 1.1e9
"""bytes of a worker's process itself: Python, torch, Ray, MLflow, and CUDA's libraries on a GPU"""


class StepMemory(NamedTuple):
    """Bytes that one rank needs on its device."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    network: float
    pixels: float
    maps: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, with the work space."""
        return sum(self) + WORK_SPACE * self.activations


def step_memory(
    config: TrainConfig, stored_size: int, batch_size: int, device: str = "cpu"
) -> StepMemory:
    """What a step over `batch_size` stored images of `stored_size` pixels per side needs.

    Two small passes on this machine's CPU tell the activations of one image, and of none. Precision
    auto counts as fp32, which needs more.
    """
    vae = build_vae(config.model)
    network, maps = None, 0.0
    if config.loss.reconstruction == "perceptual":
        network = empty_perceptual_network(config.loss, vae.resize_method)
        network.to(DTYPES["bf16" if config.training.precision == "bf16" else "fp32"])
        at_once = min(images_at_once(network, torch.device(device)), batch_size)
        each_maps = COPIES_OF_MAPS * network.bytes_per_image + network.bytes_before_prelu
        maps = float(each_maps * at_once)
    two, four = (_kept(config, vae, stored_size, count) for count in (2, 4))
    each = (four - two) / 2
    weights = _bytes((*vae.parameters(), *vae.buffers()))
    parameters = _bytes(p for p in vae.parameters() if p.requires_grad)
    return StepMemory(
        weights=weights,
        gradients=parameters,
        optimizer=2 * parameters,
        average=weights if config.training.ema_decay else 0.0,
        network=_bytes((*network.parameters(), *network.buffers())) if network else 0.0,
        pixels=float(COPIES_OF_PIXELS * 4 * 3 * stored_size**2 * batch_size),
        maps=maps,
        activations=max(two - 2 * each, 0.0) + each * batch_size,
    )


def encoder_memory(model: ModelConfig, batch_size: int) -> float:
    """Bytes that an encoder needs for its weights and one batch: its widest module, in and out."""
    vae = build_vae(model).eval()
    widest = 0.0

    def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal widest
        widest = max(widest, _bytes(inputs) + _bytes([output]))

    for module in vae.encoder.modules():
        if not list(module.children()):
            module.register_forward_hook(measure)
    with torch.no_grad():
        vae.encode(torch.zeros(1, 3, vae.image_size, vae.image_size))
    weights = _bytes((*vae.parameters(), *vae.buffers()))
    return weights + (1 + WORK_SPACE) * widest * batch_size


def _kept(config: TrainConfig, vae: VAE, stored_size: int, batch_size: int) -> float:
    """Bytes that the forward pass keeps for the backward pass, weights aside.

    With the pixel loss, which keeps what the perceptual one does: the gradient of the images.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    criterion = Criterion(LossConfig(reconstruction="pixel"), None)
    stored = torch.zeros(batch_size, stored_size, stored_size, 3, dtype=torch.uint8)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=config.training.precision == "bf16"),
    ):
        images = model_input(stored, vae.image_size, vae.resize_method)
        noise = torch.zeros(batch_size, vae.latent_size)
        terms = criterion(vae, Reconstruction(*vae(images, noise)), stored)
    for tensor in (*vae.parameters(), *vae.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del terms
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def _bytes(tensors: Iterable[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
