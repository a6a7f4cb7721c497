"""Tensors from the host to the device that computes, without a wait."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The same values on a device.

    A GPU copies pageable memory while the host waits for it, and for all kernels before it. Pinned
    memory it copies when its turn comes; PyTorch does not use that memory again before.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
