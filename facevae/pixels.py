"""Pixels between their three forms; where stored and decoded images change range and size.

Stored images are uint8 [B,H,W,3]. Floats exist on the device alone, in 0..255 ("float pixels")
or normalised per channel ("normalised", what a VAE reads and makes), always [B,3,H,W].
Legend: B images in a batch, H,W pixels, S model image size.
"""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from facevae.errors import UserError

ResizeMethod = Literal["antialias", "tf1"]
CropBox = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the source image; right and bottom are excluded."""

# Of the original's training images (CASIA, 160x160 crops); part of every model it trained.
PIXEL_MEAN = (134.10714722, 102.52040863, 87.15436554)
PIXEL_STD = (3941.30175781**0.5, 2856.94287109**0.5, 2519.35791016**0.5)


def to_float(
    pixels: UInt8[Tensor, "B H W 3"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B 3 H W"]:
    """Float pixels: in 0..255, in channels_last memory format (so no value moves)."""
    return pixels.permute(0, 3, 1, 2).to(dtype)


def normalise(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalised images of float pixels in 0..255."""
    return (images - _per_channel(PIXEL_MEAN, images)) / _per_channel(PIXEL_STD, images)


def denormalise(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Float pixels of normalised images; differentiable, and not clipped to 0..255."""
    return images * _per_channel(PIXEL_STD, images) + _per_channel(PIXEL_MEAN, images)


def resize(
    images: Float[Tensor, "B 3 H W"], size: int, method: ResizeMethod
) -> Float[Tensor, "B 3 {size} {size}"]:
    """Square images of `size` pixels in the same range; the input itself if it has that size.

    Args:
        images: images in any range; the result has their precision.
        size: side of the result in pixels.
        method: `antialias` averages over all source pixels that a result pixel covers;
            `tf1` is the original's `tf.image.resize_bilinear`, see `_tf1_matrix`.
    """
    height, width = images.shape[2:]
    if height == width == size:
        return images
    if method == "antialias" and size < max(height, width):
        return F.interpolate(
            images, (size, size), mode="bilinear", align_corners=False, antialias=True
        )
    # As two matrix products: the gradient of `interpolate` takes three times as long on a CPU.
    rows, columns = (_resize_matrix(side, size, method, images) for side in (height, width))
    with torch.autocast(images.device.type, enabled=False):
        wide = images.contiguous() @ columns.T
        lines = wide.permute(0, 2, 3, 1).flatten(2)  # channels_last before the result is large
        resized: Tensor = (rows @ lines).unflatten(2, (size, -1)).permute(0, 3, 1, 2)
        return resized


def model_input(
    pixels: UInt8[Tensor, "B H W 3"], size: int, method: ResizeMethod
) -> Float[Tensor, "B 3 {size} {size}"]:
    """What a VAE of image size `size` reads: normalised float32 images of any stored pixels.

    The original normalises and then resizes. Resizing is linear with weights that add up to one,
    so the order is free; resizing first is cheaper, as it mostly shrinks.
    """
    return normalise(resize(to_float(pixels), size, method))


def to_pixels(images: Float[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B S S 3"]:
    """Stored form of normalised images: clipped to 0..255 and rounded."""
    rounded = denormalise(images.float()).clamp(0, 255).round()
    return rounded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop_and_resize(image: Image.Image, crop: CropBox | None, size: int) -> Image.Image:
    """RGB image of `size` x `size` pixels, cut out of an RGB image; the input if it is that.

    Args:
        image: RGB image.
        crop: box to cut out, clipped to the image; none is the largest centred square. A box that
            is not square is stretched, as the original does.
        size: side of the result in pixels.

    Raises:
        UserError: the box lies outside the image.
    """
    assert image.mode == "RGB", image.mode
    box = _centred_square(image) if crop is None else _clipped(crop, image)
    if box == (0, 0, size, size) and image.size == (size, size):
        return image
    # The gap of 3 lets Pillow average whole blocks first: faster, and alike to the eye.
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _per_channel(
    values: tuple[float, float, float], images: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "3 1 1"]:
    return _channel_constant(values, images.dtype, images.device)


def _resize_matrix(
    side: int, size: int, method: ResizeMethod, like: Tensor
) -> Float[Tensor, "{size} {side}"]:
    return _matrix_constant(side, size, method, like.dtype, like.device)


# Constants stay on the device that uses them: to copy one there, the host waits for all that the
# device has still to do. One that is made in inference mode would be of no use to training.
@lru_cache
def _channel_constant(
    values: tuple[float, float, float], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "3 1 1"]:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


@lru_cache
def _matrix_constant(
    side: int, size: int, method: ResizeMethod, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "{size} {side}"]:
    """What a resized column is of a column of `side` pixels: resizing is linear and separable."""
    build = _tf1_matrix if method == "tf1" else _bilinear_matrix
    with torch.inference_mode(False):
        return build(side, size).to(device, dtype)


def _bilinear_matrix(side: int, size: int) -> Float[Tensor, "{size} {side}"]:
    """Enlarging needs no antialiasing: the result is the same."""
    unit = torch.eye(side, dtype=torch.float64)[None]
    return F.interpolate(unit, size, mode="linear", align_corners=False)[0].T


def _tf1_matrix(side: int, size: int) -> Float[Tensor, "{size} {side}"]:
    """Bilinear samples at `destination * scale`: no half-pixel centres, no antialiasing.

    160 to 64 samples at 0, 2.5, 5, ...; 64 to 160 returns to the same places, and beyond the last
    source pixel repeats it. TensorFlow 1, `resize_bilinear` with `align_corners=False`.
    """
    position = torch.arange(size, dtype=torch.float64) * (side / size)
    lower = position.long()
    unit = torch.eye(side, dtype=torch.float64)
    upper = unit[(lower + 1).clamp(max=side - 1)]
    return torch.lerp(unit[lower], upper, (position - lower)[:, None])


def _centred_square(image: Image.Image) -> CropBox:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def _clipped(crop: CropBox, image: Image.Image) -> CropBox:
    left, top = max(crop[0], 0), max(crop[1], 0)
    right, bottom = min(crop[2], image.width), min(crop[3], image.height)
    if left >= right or top >= bottom:
        raise UserError(
            f"crop box {crop} (left, top, right, bottom) covers no pixel of an image of "
            f"{image.width}x{image.height}; give a box that overlaps the image"
        )
    return left, top, right, bottom
