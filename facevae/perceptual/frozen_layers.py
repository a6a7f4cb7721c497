"""Layers whose weights are never trained: the gradient of their input alone, in few passes.

Legend: B images in a batch, C channels, H,W pixels.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenPReLU(nn.Module):
    """PReLU with fixed slopes per channel.

    `nn.PReLU` computes the gradient of its slopes whether wanted or not, which takes ten times as
    long as all of this on a CPU.
    """

    def __init__(self, slopes: Float[Tensor, " C"]):
        super().__init__()
        self.register_buffer("slopes", slopes.detach().view(-1, 1, 1))

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The activation: x where positive, elsewhere slope * x."""
        result: Tensor = _FrozenPReLU.apply(maps, self.slopes)
        return result


class _FrozenPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, slopes: Tensor) -> Tensor:
        slopes = slopes.to(maps.dtype)
        ctx.save_for_backward(maps, slopes)
        return F.prelu(maps, slopes.flatten())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        maps, slopes = ctx.saved_tensors
        # Two vectorised passes; torch.where with a broadcast operand is five times slower on CPU.
        positive = torch.ops.aten.threshold_backward(gradient, maps, 0)
        return torch.lerp(positive, gradient, slopes), None


class FrozenConvReLU(nn.Module):
    """A convolution with a bias, and the ReLU of its result in the same pass over memory."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        assert convolution.bias is not None
        assert convolution.groups == 1
        assert isinstance(convolution.padding, tuple)
        self.weight = nn.Parameter(convolution.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)
        self.stride, self.padding = convolution.stride, convolution.padding
        self.dilation = convolution.dilation

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The convolution's result where positive, elsewhere zero."""
        result: Tensor = _FrozenConvReLU.apply(
            maps, self.weight, self.bias, (self.stride, self.padding, self.dilation)
        )
        return result


class _FrozenConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, places: tuple[Any, Any, Any]
    ) -> Tensor:
        stride, padding, dilation = places
        if _has_fused_kernel(maps):
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                maps, weight, bias, padding, stride, dilation, 1, "relu", [], ""
            )
        else:
            result = F.conv2d(maps, weight, bias, stride, padding, dilation).relu_()
        ctx.save_for_backward(maps, weight, result)
        ctx.places = places
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        maps, weight, result = ctx.saved_tensors
        through_relu = torch.ops.aten.threshold_backward(gradients[0], result, 0)
        gradient, _, _ = torch.ops.aten.convolution_backward(
            through_relu, maps, weight, None, *ctx.places, False, (0, 0), 1, (True, False, False)
        )
        return gradient, None, None, None


def _has_fused_kernel(maps: Tensor) -> bool:
    """Whether oneDNN computes the two together: on a CPU that it knows, float32 or bfloat16."""
    if maps.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if maps.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return maps.dtype == torch.float32
