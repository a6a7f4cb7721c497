"""Training steps without Ray: as facenet-pytorch comes, as fast as they can be, and with data.

What is measured is images per second, but for operations; it runs in a process of its own with the
CPUs and the GPU of one training worker.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from facevae.benchmark.plain import PlainLoss
from facevae.config import TrainConfig
from facevae.data import shard_files
from facevae.data.images import decode_jpegs
from facevae.ray_cluster.connect import ALLOCATOR_ENVIRONMENT
from facevae.training.build import DTYPES, build_trainer

WARM_UP = 2
"""steps before the first that counts"""
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
"""of the square matrices whose product tells what a device can do"""
MATRIX_PRODUCTS = 20


class Steps(NamedTuple):
    """What is trained: a configuration, shards to take images from, threads, and how many steps."""

    config: TrainConfig
    shards: str
    threads: int
    number: int


def ceiling(steps: Steps) -> float:
    """Our step over and over on one batch that is there already: no data, no Ray, no logging."""
    train = _stepper(steps)
    batch = resident_batch(steps)
    return _rate(steps, lambda: train(batch))


def bare_loop(steps: Steps) -> float:
    """The plainest good program: our step, and a thread that reads and decodes ahead of it."""
    train, batches = _stepper(steps), _ahead(batches_of(steps))
    return _rate(steps, lambda: train(torch.from_numpy(next(batches)).to(device())))


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
    loss = PlainLoss(steps.config).to(device())
    optimizer = torch.optim.Adam(loss.vae.parameters(), steps.config.training.learning_rate)
    stored = resident_batch(steps)

    def train() -> None:
        noise = torch.randn(len(stored), loss.vae.latent_size, device=stored.device)
        value = loss(stored, noise)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        value.item()

    return _rate(steps._replace(number=1), train, warm_up=1)


def matrix_peak(steps: Steps) -> float:
    """Floating-point operations per second of a matrix product in the precision of the training.

    A multiplication and an addition are two. Nothing that a step does is faster: of random numbers,
    since a GPU multiplies ones with less power and so faster; and in TF32 if convolutions are.
    """
    torch.set_num_threads(steps.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    size = MATRIX_SIZES[device().type]
    matrix = torch.randn(size, size, dtype=DTYPES[steps.config.training.precision], device=device())
    result = matrix @ matrix
    seconds = []
    for _ in range(MATRIX_PRODUCTS):
        _wait_for_device()
        started = time.perf_counter()
        torch.mm(matrix, matrix, out=result)
        _wait_for_device()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def operations_per_image(steps: Steps) -> float:
    """Floating-point operations of convolutions and matrix products in our step, for each image."""
    train, batch, operations = _stepper(steps), resident_batch(steps), _Operations()
    with operations:
        train(batch)
    return operations.number / len(batch)


class _Operations(TorchDispatchMode):
    """Counts by torch's own formulas.

    Not torch's `FlopCounterMode`, whose record of modules fails where a step asks for a gradient of
    its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket
        if name is torch.ops.mkldnn._convolution_pointwise:
            name, args, kwargs = torch.ops.aten.convolution, _as_convolution(args), {}
        if name in flop_registry:
            self.number += flop_registry[name](*args, **kwargs, out_val=result)
        return result


def _as_convolution(args: Any) -> tuple[Any, ...]:
    """The arguments of oneDNN's convolution with an activation as those of one without."""
    maps, weight, bias, padding, stride, dilation, groups, *_ = args
    return (maps, weight, bias, stride, padding, dilation, False, [0, 0], groups)


def resident_batch(steps: Steps) -> Tensor:
    """The first stored images, uint8 [B,D,D,3] on the device that trains."""
    return torch.from_numpy(next(batches_of(steps))).to(device())


def _stepper(steps: Steps) -> Callable[[Tensor], Any]:
    torch.set_num_threads(steps.threads)
    trainer = build_trainer(steps.config, device())
    numbers = iter(range(1, 1 << 30))
    return lambda batch: trainer(batch, next(numbers))


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


def batches_of(steps: Steps) -> Iterator[np.ndarray]:
    """Batches of decoded images, shard by shard, over and over."""
    size = steps.config.training.global_batch_size
    rest: np.ndarray | None = None
    names = [shard.name for shard in shard_files.read_manifest(steps.shards).of_split("train")]
    while True:
        for name in names:
            images = shard_files.read_images(steps.shards, name)
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


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
