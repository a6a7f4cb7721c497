"""The arithmetic of convolutions and matrix products: bf16 where a device has it natively.

Elsewhere bf16 is emulated, and a convolution takes up to ten times and more as long as in fp32.
"""

import time
from functools import cache
from typing import NamedTuple

import torch
from torch.nn import functional as F

from facevae.config import Arithmetic, Precision

NATIVE_CAPABILITY = (8, 0)
"""of a CUDA device"""
EMULATED = 1.25
"""how many times as long as in fp32 a convolution in bf16 takes at least where it is emulated:
native ones take half as long, emulated ones from 1.5 to 15 times"""
ROUNDS = 5


class Choice(NamedTuple):
    """The arithmetic to compute in, and how much slower than fp32 it is if that is emulated."""

    arithmetic: Arithmetic
    slowdown: float | None = None
    """how many times as long as fp32 emulated bf16 takes; none: it is not emulated"""


def resolve_precision(wanted: Precision, device: torch.device) -> Choice:
    """What to compute in on a device: what is wanted; for auto, bf16 where it is native."""
    if wanted == "fp32":
        return Choice("fp32")
    if has_native_bf16(device):
        return Choice("bf16")
    return Choice("fp32") if wanted == "auto" else Choice("bf16", bf16_slowdown(device))


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16, and a CPU kernels that use them.

    oneDNN tells which vectors a CPU has rather than whether it has bf16, and nothing of the limits
    that its environment sets: so a convolution is measured too.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= NATIVE_CAPABILITY
    if not torch.backends.mkldnn.is_available():
        return False
    has_kernels = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return has_kernels and bf16_slowdown(device) < EMULATED


@cache
def bf16_slowdown(device: torch.device) -> float:
    """How many times as long as in fp32 a small convolution takes in bf16, measured once.

    The two are timed in turn and the fastest of each counts, so that other work does not matter.
    On a CPU with one thread: many would wait for each other longer than they compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = [
            (_seconds(torch.float32, device), _seconds(torch.bfloat16, device))
            for _ in range(ROUNDS)
        ]
    finally:
        torch.set_num_threads(threads)
    full, half = (min(seconds) for seconds in zip(*rounds, strict=True))
    return float(half / full)


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    maps = torch.ones(4, 64, 16, 16, dtype=dtype, device=device)
    maps = maps.to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, device=device)
    _wait_for(device)
    started = time.perf_counter()
    F.conv2d(maps, weight)
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
