"""Batch norm over the images of all data-parallel workers, on CPU as on GPU.

torch's own is for GPUs alone. With it a step is the same on any number of workers, to rounding.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
ALL_BUT_CHANNELS = (0, 2, 3)


def synchronised(model: M, device: torch.device) -> M:
    """The model, on the device, with every batch norm over all workers; names stay."""
    if device.type != "cpu":
        converted: M = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for parent in [*model.modules()]:
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm2d(layer))
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm with the statistics of all workers' images; shares may be uneven."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        """Takes over the parameters and the running statistics of a layer."""
        super().__init__(layer.num_features, layer.eps, layer.momentum)
        self.weight, self.bias = layer.weight, layer.bias
        self.load_state_dict(layer.state_dict())

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The images with each channel normalised, in their own precision."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(images)
        count, mean, variance = _statistics(images.float())
        self._update_running(count, mean.detach(), variance.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalised = torch.addcmul(shift[:, None, None], images.float(), scale[:, None, None])
        return normalised.to(images.dtype)

    def _update_running(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The number of values a channel, their mean [C] and variance [C], over all workers."""
    own = images.numel() / images.shape[1]
    variance, mean = torch.var_mean(images, ALL_BUT_CHANNELS, correction=0)
    variance, mean = variance.double(), mean.double()  # as squares of means are subtracted below
    rows = [torch.ones_like(mean), mean, variance + mean.square()]
    count, total, squares = _SumOfAll.apply(own * torch.stack(rows))
    mean = total / count
    variance = squares / count - mean.square()
    return count.float(), mean.float(), variance.float()


class _SumOfAll(torch.autograd.Function):
    """The sum over all workers; so is its gradient, since all of them use it."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values
