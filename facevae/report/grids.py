"""Images as tiles of a grid, and pictures as PNG files.

Legend: N images, H, W pixels.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from facevae.runs.progress import log
from facevae.runs.storage import atomic_file, exists, read_bytes

MAX_PIXELS = 89_000_000
"""of a grid; Pillow takes larger files for attacks"""


def image_grid(
    images: UInt8[np.ndarray, "N H W 3"], columns: int, border: int = 3
) -> UInt8[np.ndarray, "h w 3"]:
    """The images as tiles, row by row, with a black border around each.

    Tiles missing from the last row are black. h = rows * (H + border) + border, and w alike: 20 x 8
    tiles of 64 pixels make 1343 x 539, the original's picture. Tiles of which a grid would have
    more than `MAX_PIXELS` are made smaller.
    """
    images = shrink_to_fit(images, border)
    number, height, width, _ = images.shape
    rows = -(-number // columns)
    tiles = np.pad(
        images, ((0, rows * columns - number), (border, 0), (border, 0), (0, 0))
    ).reshape(rows, columns, height + border, width + border, 3)
    grid = tiles.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + border), columns * (width + border), 3
    )
    return np.pad(grid, ((0, border), (0, border), (0, 0)))


def shrink_to_fit(
    images: UInt8[np.ndarray, "N H W 3"], border: int = 3
) -> UInt8[np.ndarray, "N h w 3"]:
    """The images as tiles small enough for a grid of `MAX_PIXELS`: as they are, or shrunk alike."""
    number, *sides = images.shape[:3]
    factor = 1
    while number * math.prod(-(-side // factor) + border for side in sides) > MAX_PIXELS:
        if factor >= max(sides):
            break
        factor += 1
    if factor == 1:
        return images
    return np.stack([np.asarray(Image.fromarray(image).reduce(factor)) for image in images])


def reconstruction_grid(
    originals: UInt8[np.ndarray, "N H W 3"],
    reconstructions: UInt8[np.ndarray, "N H W 3"],
    columns: int = 16,
    border: int = 3,
) -> UInt8[np.ndarray, "h w 3"]:
    """Pairs as tiles, at most `columns` in a row, each original directly above its reconstruction.

    Black borders run between pairs only, so that a pair reads as one.
    """
    pairs = np.concatenate([originals, reconstructions], axis=1)
    return image_grid(pairs, min(columns, max(len(pairs), 1)), border)


def save_png(image: UInt8[np.ndarray, "H W 3"] | Image.Image, uri: str | Path) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        UserError: no permission, or the disk is full.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with atomic_file(str(uri)) as path:
        picture.save(path, format="PNG")


def save_or_warn(draw: Callable[[], Image.Image], uri: str) -> Image.Image | None:
    """Draw a picture of results and write it as PNG; a failure is a warning, and no picture.

    The results are worth more than their picture.
    """
    try:
        picture = draw()
        save_png(picture, uri)
    except Exception as error:  # noqa: BLE001 - whatever it is, the results are kept
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        log(f"warning: the picture {uri} is missing ({reason}); nothing else is")
        return None
    return picture


def read_png(uri: str) -> UInt8[np.ndarray, "H W 3"] | None:
    """A picture that `save_png` wrote; none if there is none."""
    if not exists(uri):
        return None
    with Image.open(io.BytesIO(read_bytes(uri))) as picture:
        return np.asarray(picture.convert("RGB"))
