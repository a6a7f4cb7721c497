"""Training steps without Ray: as facenet-pytorch comes, as fast as they can be, and with data.

Each public function returns images a second, and is run in a process of its own with the CPUs and
the GPU of one training worker.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1
from facenet_pytorch.models.mtcnn import ONet
from torch import Tensor, nn
from torch.nn import functional as F

from facevae.config import LossConfig, TrainConfig
from facevae.data import shards
from facevae.data.images import decode_jpegs
from facevae.losses import REFERENCE_BATCH, kl_divergence
from facevae.models import build_vae
from facevae.models.perceptual import INCEPTION_STAGES, ONET_STAGES
from facevae.pixels import denormalise, model_input, to_float
from facevae.runtime import ALLOCATOR_ENVIRONMENT
from facevae.training.build import build_trainee

WARM_UP = 2
"""steps before the first that counts"""


class Steps(NamedTuple):
    """What is trained: a configuration, shards to take images from, threads, and how many steps."""

    config: TrainConfig
    shards: str
    threads: int
    number: int


def ceiling(steps: Steps) -> float:
    """Our step over and over on one batch that is there already: no data, no Ray, no logging."""
    train = _stepper(steps)
    batch = torch.from_numpy(next(_batches(steps))).to(_device())
    return _rate(steps, lambda: train(batch))


def bare_loop(steps: Steps) -> float:
    """The plainest good program: our step, and a thread that reads and decodes ahead of it."""
    train, batches = _stepper(steps), _ahead(_batches(steps))
    return _rate(steps, lambda: train(torch.from_numpy(next(batches)).to(_device())))


def unoptimised(steps: Steps) -> float:
    """The step as a straight port has it, in a process with the default allocator."""
    tuned = {name: os.environ.pop(name, None) for name in ALLOCATOR_ENVIRONMENT}
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as fresh:
            return fresh.submit(_unoptimised, steps).result()
    finally:
        os.environ.update({name: value for name, value in tuned.items() if value is not None})


def _unoptimised(steps: Steps) -> float:
    torch.set_num_threads(steps.threads)
    config, device = steps.config, _device()
    torch.manual_seed(config.training.seed)
    vae, features = build_vae(config.model).to(device), _AsShipped(config.loss).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), config.training.learning_rate)
    stored = torch.from_numpy(next(_batches(steps))).to(device)

    def train() -> None:
        images = to_float(stored).contiguous()
        noise = torch.randn(len(images), vae.latent_size, device=device)
        result = vae(model_input(stored, vae.image_size, "antialias").contiguous(), noise)
        with torch.no_grad():
            targets = features(images)
        drawn = features(denormalise(result.images))
        errors = (F.mse_loss(a, b, reduction="sum") for a, b in zip(drawn, targets, strict=True))
        reconstruction = sum(errors) / len(images)
        loss = kl_divergence(result.posterior).mean()
        loss = config.loss.alfa * loss + config.loss.beta * REFERENCE_BATCH * reconstruction
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return _rate(steps._replace(number=1), train, warm_up=1)


class _AsShipped(nn.Module):
    """A face network as facenet-pytorch ships it: fp32, batch norms by themselves, NCHW."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        is_onet = config.network == "mtcnn_onet"
        self._stages = ONET_STAGES if is_onet else INCEPTION_STAGES
        self._size = config.network_image_size or (64 if is_onet else 160)
        self._wanted = set(config.layers)
        # Random weights take as long as trained ones.
        network: nn.Module = ONet() if is_onet else InceptionResnetV1()
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


def _stepper(steps: Steps) -> Callable[[Tensor], Any]:
    torch.set_num_threads(steps.threads)
    trainee = build_trainee(steps.config, _device())
    numbers = iter(range(1, 1 << 30))
    return lambda batch: trainee(batch, next(numbers))


def _rate(steps: Steps, train: Callable[[], Any], warm_up: int = WARM_UP) -> float:
    """Images a second of the steps after the first."""
    for _ in range(warm_up):
        train()
    _wait_for_device()
    started = time.perf_counter()
    for _ in range(steps.number):
        train()
    _wait_for_device()
    seconds = time.perf_counter() - started
    return steps.number * steps.config.training.global_batch_size / seconds


def _batches(steps: Steps) -> Iterator[np.ndarray]:
    """Batches of decoded images, shard by shard, over and over."""
    size = steps.config.training.global_batch_size
    rest: np.ndarray | None = None
    names = [shard.name for shard in shards.read_manifest(steps.shards).of_split("train")]
    while True:
        for name in names:
            images = shards.read_shard(steps.shards, name).images
            for start in range(0, len(images), size):
                pixels = decode_jpegs(images[start : start + size])
                rest = pixels if rest is None else np.concatenate([rest, pixels])
                while len(rest) >= size:
                    yield rest[:size]
                    rest = rest[size:]


def _ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        while True:
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
