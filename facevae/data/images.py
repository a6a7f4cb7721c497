"""Encoded image bytes to pixels and back: any user's file with care, our own JPEGs fast.

Legend: B images in a batch, H, W pixels.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from facevae.data.downloads import HEAD_BYTES, no_data

T = TypeVar("T")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
MAX_PIXELS = 64_000_000  # 8000 x 8000; 256 MB as RGBA, the most that one decoding task should hold
MAX_STORED_PIXELS = 1024 * 1024  # the largest sharding.image_size; a batch holds many
MIN_SIDE = 16
# A cut-out face was made to be seen on a white page. Cutting the alpha channel off, as the original
# does, uncovers whatever colours an editor left beneath the transparent pixels.
BACKGROUND = (255, 255, 255)
# Telephones store HEIC, and call it .jpg now and then: it is told by its content, not by its name.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
HEIC_SIZE = re.compile(rb"\0\0\0\x14ispe\0{4}(.{4})(.{4})", re.DOTALL)
"""the box of a coded image's width and height; libheif decodes no image that is larger"""


class BadImageError(ValueError):
    """One image that cannot be used; its message is a short reason, such as "truncated".

    Not a UserError: in a large data set it is a row of the quarantine table, not the job's end.
    """


class SmallImageError(BadImageError):
    """An image that has fewer than `MIN_SIDE` pixels on a side."""


def decode_image(data: bytes) -> Image.Image:
    """Returns the RGB picture in an encoded file: upright, first frame, alpha laid on white.

    Reads PNG, JPEG, WebP, BMP, TIFF, GIF, HEIC, AVIF, JPEG 2000 and PPM with its kin; grey, palette
    and CMYK become RGB, and 16-bit grey is scaled to 0..255, not clipped. Of several images in one
    HEIC or MPO file the primary one is read. The size is judged from the header, before any pixel
    is decoded. Pillow's warnings are silenced; libtiff's own line on stderr about a corrupt TIFF is
    not.

    Raises:
        BadImageError: empty, truncated, corrupt, not an image, too large, too small, or in a form
            whose brightness range is not known (32-bit and floating-point samples).
    """
    return read_image(data, lambda image: to_rgb(ImageOps.exif_transpose(image)))


def read_image(data: bytes, read: Callable[[Image.Image], T]) -> T:
    """Returns what a function makes of the opened image of a file, whose pixels it may load.

    Raises:
        BadImageError: as `decode_image`.
    """
    if not data:
        raise BadImageError("empty file")
    with warnings.catch_warnings():
        # Only Pillow's: this filter is seen by all threads while it is in force.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            with _open(data) as image:
                _check_size(*image.size)
                return read(image)
        except BadImageError:
            raise
        except (
            Exception
        ) as error:  # Pillow's parsers raise whatever hostile bytes make them trip on
            raise BadImageError(_reason(error)) from error


def _open(data: bytes) -> Image.Image:
    if _is_heic(data):
        return _open_heic(data)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if found := no_data(data[:HEAD_BYTES]):
            raise BadImageError(f"not an image: {found}") from None
        raise BadImageError("truncated" if _format(data) else "not an image") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"too large: {_stated_size(data)}") from None


def _open_heic(data: bytes) -> Image.Image:
    """Returns the primary image of a HEIC file, upright."""
    import pillow_heif  # most data sets have none, and every command would wait for it

    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    for width, height in HEIC_SIZE.findall(data):  # the file's own size is that after a crop
        _check_size(int.from_bytes(width), int.from_bytes(height), least=1)
    _check_size(*file.size)
    # The file's own turns count, not those of its EXIF, and the library has undone both by now.
    return file.to_pillow()


def not_read(kind: str) -> str:
    """Returns the reason why an image of a kind that is not read is left out."""
    return f"{kind} is not read: convert the file to JPEG or PNG"


def _is_heic(data: bytes) -> bool:
    """Whether the file names a brand of HEIC among those that it goes by."""
    header = data[: int.from_bytes(data[:4], "big")][:256]
    brands = {header[at : at + 4] for at in range(8, len(header), 4)}
    return header[4:8] == b"ftyp" and not HEIC_BRANDS.isdisjoint(brands)


def _format(data: bytes) -> str | None:
    """Returns the format whose signature the file bears."""
    return next((name for name in FORMATS if Image.OPEN[name][1](data[:16])), None)  # type: ignore[misc]  # all formats have a signature test


def _stated_size(data: bytes) -> str:
    """Returns "WxH" from the header; Image.open refuses a bomb without saying its size."""
    width, height = Image.OPEN[_format(data) or ""][0](io.BytesIO(data), "").size
    return f"{width}x{height}"


def _check_size(width: int, height: int, least: int = MIN_SIDE) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError(f"too large: {width}x{height}")
    if min(width, height) < least:
        raise SmallImageError(f"too small: {width}x{height}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture as 8-bit RGB, as `decode_image` does.

    Raises:
        BadImageError: its brightness range is not known.
    """
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise BadImageError("floating-point samples; save it with 8 bits")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, BACKGROUND)
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Returns RGB from grey samples in 0..65535, rounded to the nearest of 0..255."""
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:  # mode I holds any 32-bit number
        raise BadImageError("32-bit samples; save it with 8 bits")
    grey = (samples * 255 + 32767) // 65535
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "truncated" if "truncated" in text.lower() else f"corrupt: {text[:100]}"


def encode_jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """Returns an RGB picture as a 4:4:4 JPEG, for storing; equal pixels give equal bytes."""
    assert image.mode == "RGB", image.mode
    encoded: bytes = simplejpeg.encode_jpeg(
        np.asarray(image), quality, "RGB", colorsubsampling="444", fastdct=False
    )
    return encoded


def decode_jpegs(images: Sequence[bytes]) -> UInt8[np.ndarray, "B H W 3"]:
    """Returns the pixels of stored JPEGs of one size, uint8 in 0..255, pixel for pixel as Pillow's.

    Raises:
        BadImageError: an image is corrupt, too large or not of the first one's size; the message
            says which.
    """
    assert images, "no images to decode"
    height, width = _jpeg_size(images, 0)
    pixels = np.empty((len(images), height, width, 3), np.uint8)
    for i, data in enumerate(images):
        found = _jpeg_size(images, i)
        if found != (height, width):
            raise BadImageError(
                f"image {i} of {len(images)} has {found[1]}x{found[0]} pixels, expected "
                f"{width}x{height} as in image 0: images of one batch must have one size"
            )
        try:
            # The exact transform costs 4 % more than the fast one, and is what Pillow computes.
            simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, buffer=pixels[i])
        except ValueError as error:
            raise BadImageError(f"image {i} of {len(images)} cannot be decoded: {error}") from error
    return pixels


def _jpeg_size(images: Sequence[bytes], i: int) -> tuple[int, int]:
    """Returns (H, W) from the header of image `i`."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(images[i])
    except ValueError as error:
        raise BadImageError(f"image {i} of {len(images)} is not a JPEG: {error}") from error
    if height * width > MAX_STORED_PIXELS:
        raise BadImageError(f"image {i} of {len(images)} is too large: {width}x{height}")
    return height, width
