"""What a step, an encoder and their memory take of a device, on images that are there already.

Nothing here needs Ray or MLflow. Each public function yields rows of a table.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from facevae.attributes.latents import encode_pixels
from facevae.benchmark.face_network import WIKI_LAYERS, random_face_network
from facevae.benchmark.gpu_check import Row
from facevae.config import Arithmetic, ModelConfig, TrainConfig
from facevae.models import build_vae
from facevae.models.folding import fold_batch_norms
from facevae.models.precision import has_native_bf16
from facevae.pixels import model_input
from facevae.training.build import build_trainer
from facevae.training.memory import step_memory
from facevae.training.step import Trainer

STORED = 160
"""pixels per side of the stored images, as the original's face network sees them"""
WARM_UP, PROFILED = 3, 3
"""steps before those that count, and steps under the profiler"""
MIB = 2**20


class Sizes(NamedTuple):
    """How much is measured."""

    batches: tuple[int, ...] = (128, 1024)
    steps: int = 20
    encoder_batch: int = 256


def step_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The original's recipe: time, kernels, launches, waits and memory of a step."""
    weights = random_face_network(folder)
    for batch in sizes.batches:
        for precision in _precisions(device):
            title = f"step, batch {batch}, {precision}"
            try:
                yield from _step(title, device, _recipe(weights, batch, precision), sizes.steps)
            except torch.OutOfMemoryError:
                yield Row(title, "no memory for it")
    if len(_precisions(device)) == 1:
        yield Row("step, bf16", "left out: bf16 is emulated here")


def _step(title: str, device: torch.device, config: TrainConfig, steps: int) -> Iterator[Row]:
    batch = config.training.global_batch_size
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer, stored, numbers = build_trainer(config, device), _images(batch, device), count(1)

    def work() -> None:
        trainer(stored, next(numbers))

    seconds = _seconds(work, steps, device)
    yield Row(title, 1e3 * seconds, "ms")
    yield Row(f"{title}: speed", batch / seconds, "images/s")
    if device.type == "cuda":
        yield Row(f"{title}: memory", torch.cuda.max_memory_allocated(device) / MIB, "MiB")
    estimate = step_memory(config, STORED, batch, device.type).total
    yield Row(f"{title}: memory as the plan has it", estimate / MIB, "MiB")
    if device.type == "cuda":
        yield from _kernels(title, work, seconds)
        waits = _waits(work)
        yield Row(f"{title}: waits for the GPU", float(len(waits)), "per step")
        for place in sorted(set(waits)):
            yield Row(f"{title}: waits at", place)


def _kernels(title: str, work: Callable[[], None], seconds: float) -> Iterator[Row]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(PROFILED):
            work()
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() or [] if event.device_type.name == "CUDA"]
    if not kernels:
        yield Row(f"{title}: kernels", "the profiler sees none here")
        return
    busy = sum(event.self_device_time_total for event in kernels) / 1e6 / PROFILED
    yield Row(f"{title}: kernels", 1e3 * busy, "ms")
    yield Row(f"{title}: share of kernels", 100 * busy / seconds, "% of the step")
    yield Row(f"{title}: launches", len(kernels) / PROFILED, "per step")


def _waits(work: Callable[[], None]) -> list[str]:
    """Where the host waits for the GPU in a step: file and line, as PyTorch warns of it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return [
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if "synchron" in str(each.message)
    ]


def agreement_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """How far the first step is from that of this machine's CPU in fp32: loss and gradient."""
    weights, batch = random_face_network(folder), min(8, *sizes.batches)
    loss, gradient = _first_step(_recipe(weights, batch, "fp32"), torch.device("cpu"))
    for precision in _precisions(device):
        for tf32 in (False, True) if precision == "fp32" and device.type == "cuda" else (True,):
            with _tf32(tf32):
                ours = _first_step(_recipe(weights, batch, precision), device)
            name = "fp32 without TF32" if not tf32 else precision
            relative = float((ours[0] - loss).abs() / loss.abs())
            yield Row(f"loss in {name} beside the CPU's", relative, "relative")
            relative = float((ours[1] - gradient).norm() / gradient.norm())
            yield Row(f"gradient in {name} beside the CPU's", relative, "relative")


def _first_step(config: TrainConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    trainer: Trainer = build_trainer(config, device)
    total = trainer.loss(_images(config.training.global_batch_size, device), 1).total
    total.backward()
    gradients = [p.grad.flatten() for p in trainer.vae.parameters() if p.grad is not None]
    return total.detach().double().cpu(), torch.cat(gradients).double().cpu()


@contextlib.contextmanager
def _tf32(is_allowed: bool) -> Iterator[None]:
    """A block in which convolutions in fp32 may be rounded to TF32, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def encoder_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The bare encoder: of pixels on the device, and of pixels in memory of the host."""
    vae = build_vae(ModelConfig()).eval()
    fold_batch_norms(vae)
    vae = vae.to(device).to(memory_format=torch.channels_last)
    batch = sizes.encoder_batch
    resident = _images(batch, device)
    host = np.repeat(resident.cpu().numpy(), 4, axis=0)
    for precision in _precisions(device):

        @torch.inference_mode()
        def encode(is_bf16: bool = precision == "bf16") -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                vae.encode(model_input(resident, vae.image_size, vae.resize_method))

        def from_host(precision: str = precision) -> None:
            encode_pixels(vae, host, batch, precision)

        title = f"encoder, batch {batch}, {precision}"
        rate = batch / _seconds(encode, sizes.steps, device)
        yield Row(f"{title}: pixels on the device", rate, "images/s")
        rate = len(host) / _seconds(from_host, max(1, sizes.steps // 4), device)
        yield Row(f"{title}: pixels of the host", rate, "images/s")


def _precisions(device: torch.device) -> tuple[Arithmetic, ...]:
    return ("fp32", "bf16") if has_native_bf16(device) else ("fp32",)


def _recipe(weights: str, batch: int, precision: Arithmetic) -> TrainConfig:
    """That of the original: dfc_vae, three FaceNet layers at 160 pixels."""
    loss: dict[str, Any] = {"network": "inception_resnet_v1", "layers": WIKI_LAYERS}
    return TrainConfig(
        loss=loss | {"weights": weights},
        training={"global_batch_size": batch, "precision": precision},
    )


def _images(number: int, device: torch.device) -> torch.Tensor:
    """Random stored images: what is in them does not change the time."""
    generator = torch.Generator().manual_seed(0)
    size = (number, STORED, STORED, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(device)


def _seconds(work: Callable[[], Any], number: int, device: torch.device) -> float:
    """Seconds of one call, of many after some that do not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(min(WARM_UP, number)):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(number):
        work()
    wait()
    return (time.perf_counter() - started) / number
