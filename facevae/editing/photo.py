"""A user's photo: opened with all that belongs to it, changed in one place, and saved.

Coordinates are x before y, in pixels from the upper left corner of the upper left pixel.
Legend: H, W pixels of the photo, C colour channels (1 or 3), S pixels per side of a face.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image, ImageOps
from torch.nn import functional as F

from facevae.config import PhotoFormat
from facevae.data.images import read_image, to_rgb
from facevae.errors import UNREADABLE, UserError
from facevae.pixels import resize
from facevae.runs import storage

GREY_OF_RGB = (0.299, 0.587, 0.114)
"""ITU-R 601, which Pillow makes grey pictures by"""
ROWS = 256
"""of a photo that are changed at once, so that memory does not grow with its size"""
SUFFIX: Mapping[PhotoFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "tiff": "tif"}
LONGEST_SIDE = {"webp": 16_383, "jpeg": 65_535}
"""pixels, by format that has a limit"""
_DEFAULT_QUALITY = 95
_GREY_16 = "I;16"
_OF_TIFF_ITSELF = frozenset(
    (*range(254, 260), 262, 266, 273, *range(277, 282), 284, *range(288, 294), 296, 301)
) | frozenset((*range(317, 326), 330, 332, *range(334, 342), 347, *range(512, 522), 529, 530, 532))
"""tags of a TIFF file that tell how its pixels lie in it"""
_ELSEWHERE = (274, 700, 34675)
"""tags of the orientation, which is normalised, of XMP, and of the ICC profile"""
_BITS_OF_BOX = re.compile(rb"pixi\0{4}([\1-\4])(.)", re.DOTALL)
_JPEG_2000 = b"\xff\x4f\xff\x51"
_JPEG_2000_BITS = 42
"""bytes from the begin of that mark to the bits of a sample less one"""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, upright, with what its file says beside pixels."""

    image: Image.Image
    """of mode L, LA, RGB, RGBA or I;16"""
    beside: Mapping[str, Any]
    """ICC profile, EXIF and resolution, by the names of Pillow's `save`"""
    file_format: str
    """Pillow's name of what it was read from"""
    lost: tuple[str, ...] = ()
    """what of the file is not here, and why"""

    @property
    def rgb(self) -> Image.Image:
        """The photo as 8-bit RGB on white, as a model's training images are read."""
        return to_rgb(self.image)


def open_photo(data: bytes) -> Photo:
    """Returns the photo in an encoded file, upright; kinds and limits are those of `decode_image`.

    Samples keep their depth where Pillow can write it again: 8 bits, or 16 of grey.

    Raises:
        BadImageError: as `decode_image`.
    """
    return read_image(data, lambda image: _photo(image, data))


def _photo(image: Image.Image, data: bytes) -> Photo:
    lost = []
    bits = _bits_per_sample(image, data)
    if getattr(image, "n_frames", 1) > 1:
        lost.append("the file's other pictures: the first is edited")
    upright = ImageOps.exif_transpose(image)
    beside = {name: upright.info[name] for name in ("icc_profile", "dpi") if upright.info.get(name)}
    try:
        exif, has_thumbnail = _exif(upright, image.format)
    except UNREADABLE:
        exif, has_thumbnail = b"", False
        lost.append("EXIF: it is damaged")
    if exif:
        beside["exif"] = exif
    if has_thumbnail:
        lost.append("EXIF's thumbnail: it shows the photo before the edit")
    if upright.info.get("xmp") or upright.info.get("XML:com.adobe.xmp"):
        lost.append("XMP")
    kept = _in_kept_mode(upright)
    if bits > 8 and kept.mode != _GREY_16:
        lost.append(f"{bits} bits per sample: 8 are kept")
    if upright.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        lost.append(f"{upright.mode}: the photo is written as RGB")
        beside.pop("icc_profile", None)
    elif upright.mode in ("P", "PA"):
        lost.append("the palette: the photo is written as RGB")
    elif upright.mode == "1":
        lost.append("one bit per sample: the photo is written as 8-bit grey")
    return Photo(kept, beside, image.format or "", tuple(lost))


def _in_kept_mode(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        to_rgb(image)  # refuses what is not 16-bit
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("1", "L"):
        grey = image.convert("L")
        return grey.convert("LA") if "transparency" in image.info else grey
    if image.mode in ("LA", "La"):
        return image.convert("RGBA").convert("LA") if image.mode == "La" else image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _exif(image: Image.Image, file_format: str | None) -> tuple[bytes, bool]:
    """The EXIF of an upright image, without orientation and thumbnail; whether it has one."""
    exif = image.getexif()
    has_thumbnail = bool(exif.get_ifd(1)) and file_format != "TIFF"
    kept = Image.Exif()
    kept.load(exif.tobytes())
    for tag in [*kept]:
        if tag in _ELSEWHERE or (file_format == "TIFF" and tag in _OF_TIFF_ITSELF):
            del kept[tag]
    return (kept.tobytes() if len(kept) else b""), has_thumbnail


def _bits_per_sample(image: Image.Image, data: bytes) -> int:
    """How many bits the file keeps of a sample: Pillow reads 16-bit colours as 8-bit ones."""
    if ";16" in str(getattr(image, "tile", "")) or image.mode.startswith("I"):
        return 16
    if data[4:8] == b"ftyp" and (found := _BITS_OF_BOX.search(data)):  # AVIF and HEIC
        return found[2][0]
    start = data.find(_JPEG_2000)
    if image.format == "JPEG2000" and start >= 0:
        return (data[start + _JPEG_2000_BITS] & 0x7F) + 1
    return 8


def put_back(
    image: Image.Image,
    difference: Float32[np.ndarray, "S S 3"],
    to_source: Float64[np.ndarray, "2 3"],
    feather: float,
) -> Image.Image:
    """Returns the photo with a difference added where the face is; all else is bit for bit as it was.

    The difference is enlarged by cubic interpolation (Keys 1981) and weighted by a smooth window:
    1 in the middle, 0 at the border of the face and beyond. Grey photos get its luminance. Sums are
    rounded, and clipped to the range of the photo's samples. Alpha stays.

    Args:
        image: upright, of a mode of `Photo.image`.
        difference: of RGB pixels in 0..255.
        to_source: the matrix that takes (x, y, 1) in the difference to its place in the photo.
        feather: the window's slope, as a share of the face's side, in (0, 0.5].
    """  # noqa: E501
    samples = np.array(image)
    is_grey = image.mode in ("L", "LA", _GREY_16)
    colours = samples.reshape(*samples.shape[:2], -1)[..., : 1 if is_grey else 3]
    highest = np.iinfo(samples.dtype).max
    difference, to_source = _shrink_to_photo(difference * (highest / 255), to_source)
    if is_grey:
        difference = (difference @ np.array(GREY_OF_RGB, np.float32))[..., None]
    for place in _bands(to_source, len(difference), image.size):
        rows, columns = place
        there = colours[rows, columns]
        added = _warped(difference, to_source, place, feather)
        colours[rows, columns] = np.clip(np.rint(there + added), 0, highest)
    return Image.fromarray(samples)


def window(place: Float64[np.ndarray, "*shape"], feather: float) -> Float64[np.ndarray, "*shape"]:
    """Returns the weight along one side of a face, of places in 0..1 from border to border.

    It rises from 0 at the border to 1 at `feather`, with a slope of 0 at both (smoothstep).
    """
    inside = np.clip(np.minimum(place, 1 - place) / feather, 0, 1)
    weight: np.ndarray = inside * inside * (3 - 2 * inside)
    return weight


def scaled(
    to_source: Float64[np.ndarray, "2 3"], size: int, new_size: int
) -> Float64[np.ndarray, "2 3"]:
    """Returns the matrix of a crop of `size` pixels for the same crop in `new_size` pixels."""
    return to_source * [size / new_size, size / new_size, 1]


def _shrink_to_photo(
    difference: Float32[np.ndarray, "S S 3"], to_source: Float64[np.ndarray, "2 3"]
) -> tuple[Float32[np.ndarray, "s s 3"], Float64[np.ndarray, "2 3"]]:
    """A difference with no more pixels than the face has in the photo, so that none is skipped."""
    size = len(difference)
    scale = math.sqrt(abs(float(np.linalg.det(to_source[:, :2]))))
    smaller = max(1, math.ceil(size * scale))
    if smaller >= size:
        return difference, to_source
    planes = torch.from_numpy(difference).permute(2, 0, 1)[None]
    shrunk = resize(planes, smaller, "antialias")[0].permute(1, 2, 0).numpy()
    return shrunk, scaled(to_source, size, smaller)


class _Place(NamedTuple):
    """Some rows and columns of a photo."""

    rows: slice
    columns: slice


def _bands(
    to_source: Float64[np.ndarray, "2 3"], size: int, photo: tuple[int, int]
) -> Iterator[_Place]:
    """The part of a photo that a face covers, some rows at a time."""
    corners = to_source @ [(0, size, 0, size), (0, 0, size, size), (1, 1, 1, 1)]
    left, top = (max(0, math.floor(low)) for low in corners.min(axis=1))
    right, bottom = (
        min(side, math.ceil(high)) for side, high in zip(photo, corners.max(axis=1), strict=True)
    )
    for start in range(top, bottom, ROWS):
        if left < right:
            yield _Place(slice(start, min(start + ROWS, bottom)), slice(left, right))


def _warped(
    difference: Float32[np.ndarray, "S S C"],
    to_source: Float64[np.ndarray, "2 3"],
    place: _Place,
    feather: float,
) -> Float32[np.ndarray, "h w C"]:
    """What is added to a part of the photo: the difference there, weighted by the window."""
    x, y = (np.arange(side.start, side.stop) + 0.5 for side in (place.columns, place.rows))
    inverse = np.linalg.inv(to_source[:, :2])
    from_origin = np.stack(np.broadcast_arrays(x - to_source[0, 2], (y - to_source[1, 2])[:, None]))
    in_face = np.tensordot(inverse, from_origin, 1) / len(difference)  # [2,h,w] in 0..1
    weight = window(in_face[0], feather) * window(in_face[1], feather)
    grid = torch.from_numpy(np.moveaxis(2 * in_face - 1, 0, -1).astype(np.float32))
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(difference, -1, 0)))
    there = F.grid_sample(
        planes[None], grid[None], "bicubic", padding_mode="border", align_corners=False
    )
    added: np.ndarray = np.moveaxis(there[0].numpy(), 0, -1) * weight[..., None].astype(np.float32)
    return added


def losses(photo: Photo, file_format: PhotoFormat, quality: int | None) -> list[str]:
    """What a photo loses if it is saved so, and what it lost when it was opened."""
    lost = list(photo.lost)
    has_alpha = photo.image.mode in ("LA", "RGBA")
    if photo.image.mode == _GREY_16 and file_format in ("jpeg", "webp"):
        lost.append(f"16 bits per sample: {file_format} has 8")
    if file_format == "jpeg" and has_alpha:
        lost.append("alpha: jpeg has none, the photo lies on white")
    if file_format == "jpeg" or (file_format == "webp" and quality is not None):
        lost.append(f"exact pixels: {file_format} rounds all of them, outside the face too")
    if file_format == "webp" and _has_grey_profile(photo):
        lost.append("the ICC profile of grey: webp has colours only")
    if file_format == "webp" and "dpi" in photo.beside:
        lost.append("the resolution in dots per inch: webp has none")
    return lost


def check_format(photo: Photo, file_format: PhotoFormat, name: str) -> None:
    """Check that a format holds a photo of this size.

    Raises:
        UserError: it does not.
    """
    longest = LONGEST_SIDE.get(file_format, math.inf)
    if max(photo.image.size) > longest:
        width, height = photo.image.size
        raise UserError(
            f"{name} has {width}x{height} pixels, and {file_format} holds {longest} along a side: "
            "choose another --photo_format"
        )


def save_photo(
    photo: Photo, image: Image.Image, uri: str, file_format: PhotoFormat, quality: int | None
) -> None:
    """Write a changed photo with what belongs to it, whole or not at all.

    Args:
        photo: as it was opened.
        image: its pixels, changed.
        uri: the file.
        file_format: PNG and TIFF keep every pixel, and so does WebP without `quality`.
        quality: of JPEG (none: 95) and WebP.

    Raises:
        UserError: no permission, or the disk is full.
    """
    options: dict[str, Any] = dict(photo.beside)
    match file_format:
        case "png" | "tiff":  # libtiff, which would compress, cannot write EXIF
            pass
        case "webp":
            options.pop("dpi", None)
            if _has_grey_profile(photo):
                del options["icc_profile"]
            options |= {"exact": True, "lossless": quality is None}
            options["quality"] = 80 if quality is None else quality
            image = image if image.mode in ("RGB", "RGBA") else _to_colours(image)
        case "jpeg":
            options |= {"quality": quality or _DEFAULT_QUALITY, "subsampling": 0}
            image = image if image.mode in ("L", "RGB") else _for_jpeg(image)
    image.info.clear()  # Pillow would write what is there, too
    content = io.BytesIO()  # not straight to the file: Pillow wants to go back in some formats
    image.save(content, file_format.upper(), **options)
    with storage.atomic_file(uri) as path:
        path.write_bytes(content.getbuffer())


def _has_grey_profile(photo: Photo) -> bool:
    """Whether the ICC profile is of grey samples, as its header tells."""
    profile: bytes = photo.beside.get("icc_profile", b"")
    return profile[16:20] == b"GRAY"


def _to_colours(image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if image.mode == "LA" else to_rgb(image)


def _for_jpeg(image: Image.Image) -> Image.Image:
    rgb = to_rgb(image)
    return rgb.convert("L") if image.mode in ("LA", _GREY_16) else rgb
