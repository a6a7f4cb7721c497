"""The layers that every VAE here is made of.

Convolutions have no bias, since batch norm follows, then a leaky ReLU. Legend: B images in a
batch, H,W pixels, I,O channels in and out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from facevae.config import ModelConfig

SLOPE = 0.1  # of the leaky ReLU, and the share of a residual block's change that is added

# Row t, column k: does tap k of a 3-tap filter on the upsampled image touch tap t of the 4-tap one?
_TAPS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32)


class UpsampledConv2d(nn.Conv2d):
    """A 3x3 convolution, zero padded, of the image upsampled by nearest neighbour.

    Doubled rows repeat, so that the nine taps fall on four source pixels: the two steps are one
    transposed convolution of stride 2 whose 4x4 filter adds up the taps that meet. Same result to
    rounding, less than half the multiplications, and the upsampled image is never stored.
    The weight keeps the shape of the 3x3 convolution, [O,I,3,3].
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.register_buffer("taps", torch.kron(_TAPS, _TAPS).T.contiguous(), persistent=False)

    def forward(self, images: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O 2*H 2*W"]:
        """The convolved image, twice as large."""
        weight = (self.weight.flatten(2) @ self.taps).unflatten(2, (4, 4)).transpose(0, 1)
        return F.conv_transpose2d(images, weight, self.bias, stride=2, padding=1)


class Smooth(nn.Module):
    """The image filtered by [1, 2, 1] / 4 along both axes, its border repeated.

    No pattern of a period of two pixels passes, and half of one of four: the mesh that layers of
    doubling draw where the loss does not see it, or where latents are far from those of training.
    """

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The filtered image, of the same shape."""
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        wide = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
        return (wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]) / 16


class Residual(nn.Module):
    """x + 0.1 * activate(x): a stride-1 convolution block that refines its input."""

    def __init__(self, channels: int, kernel_size: int, decay: float):
        super().__init__()
        # TensorFlow's SAME puts the odd pixel after: 1 before and 2 after for a kernel of 4.
        before, after = (kernel_size - 1) // 2, kernel_size // 2
        padding = nn.ZeroPad2d((before, after, before, after)) if before < after else nn.Identity()
        convolution = nn.Conv2d(
            channels, channels, kernel_size, padding=0 if before < after else before, bias=False
        )
        self.change = nn.Sequential(padding, conv_bn_act(convolution, decay))

    def forward(self, images: Float[Tensor, "B I H W"]) -> Float[Tensor, "B I H W"]:
        """The refined image, of the same shape."""
        return torch.add(images, self.change(images), alpha=SLOPE)


def batch_norm(channels: int, decay: float) -> nn.BatchNorm2d:
    """Batch norm as the original's: beta is trained, gamma is one and stays it.

    Args:
        channels: channels of the image.
        decay: share of the old running statistics kept at each step.
    """
    layer = nn.BatchNorm2d(channels, eps=1e-3, momentum=1 - decay)
    layer.weight.requires_grad_(False)
    return layer


def conv_bn_act(convolution: nn.Conv2d, decay: float) -> nn.Sequential:
    """The convolution, batch norm, leaky ReLU."""
    # In place: neither batch norm nor leaky ReLU needs what is overwritten for its gradient.
    activation = nn.LeakyReLU(SLOPE, inplace=True)
    return nn.Sequential(convolution, batch_norm(convolution.out_channels, decay), activation)


def downsample(in_channels: int, out_channels: int, decay: float) -> nn.Sequential:
    """An encoder's block: 4x4 convolution of stride 2, so half the height and width."""
    convolution = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return conv_bn_act(convolution, decay)


def upsample(in_channels: int, out_channels: int, decay: float) -> nn.Sequential:
    """A decoder's block: twice the height and width by nearest neighbour, 3x3 convolution."""
    return conv_bn_act(UpsampledConv2d(in_channels, out_channels), decay)


def to_rgb(in_channels: int, config: ModelConfig, *, upsampling: bool) -> nn.Module:
    """A decoder's last layer: a 3x3 convolution to RGB without activation, doubling or not.

    In the faithful form batch norm follows, as in the original: it forces each colour to unit
    variance over the batch. In the default form a bias takes the place of its beta. With
    `smooth_output` a filter comes last.
    """
    bias = config.form == "default"
    convolution = (
        UpsampledConv2d(in_channels, 3, bias=bias)
        if upsampling
        else nn.Conv2d(in_channels, 3, 3, padding=1, bias=bias)
    )
    layers: list[nn.Module] = [convolution]
    if not bias:
        layers.append(batch_norm(3, config.batch_norm_decay))
    if config.smooth_output:
        layers.append(Smooth())
    return nn.Sequential(*layers) if len(layers) > 1 else convolution
