"""Where encoded images lie: what a folder, an archive and Parquet files have in common."""

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from facevae.config import LabelEncoding, Split
from facevae.data.images import BadImageError, not_read
from facevae.data.sources.tables import LabelTable
from facevae.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif"),
        *(".tiff", ".heic", ".heif", ".heics", ".hif", ".avif", ".avifs", ".gif"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".pnm", ".ppm"),
    )
)
UNREAD_EXTENSIONS = frozenset(
    (
        *(".jxl", ".jxr", ".psd", ".svg", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".pef"),
        *(".tga", ".dds", ".ico", ".pcx", ".qoi", ".ras", ".sgi", ".xbm", ".xpm"),
    )
)
"""endings of images that are not read; a label row that has such an image is told so"""
MAX_FILE_BYTES = 320_000_000
"""of one encoded image: the most pixels that are decoded take fewer, uncompressed and with alpha"""


@dataclass(frozen=True)
class ImageFiles(ABC):
    """Encoded images by id, in one place. A pickle holds that place only."""

    uri: str
    """absolute"""
    kind: ClassVar[str]
    """what a manifest calls it"""

    @abstractmethod
    def names(self) -> list[str]:
        """Returns the sorted ids of all images of kinds that are read: paths, or like paths.

        Raises:
            UserError: there are none, or the place is not what it should be.
        """

    def unread(self) -> list[str]:
        """Returns the sorted paths of the images of kinds that are not read."""
        return []

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Returns an image's file; raises BadImageError or OSError if there is none."""

    def labels(self, encoding: LabelEncoding) -> LabelTable | None:
        """Returns the labels that lie beside the images; none: none do.

        Raises:
            UserError: they are wrong, or ambiguous.
        """
        return None

    def splits(self) -> dict[str, Split] | None:
        """Returns the split of each id where it is stated beside the images; none: nowhere."""
        return None

    def describe(self) -> dict[str, Any]:
        """Returns what a manifest says of the content, as JSON values."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the place, not what was read."""
        return {"uri": self.uri}


def extension_of(path: str) -> str:
    """Returns the ending of a path in small letters, with its dot."""
    return posixpath.splitext(path)[1].lower()


def kind_of_image(path: str) -> str:
    """Returns the ending of a path as the name of a format."""
    return extension_of(path)[1:].upper()


def is_hidden(path: str) -> bool:
    """Whether a path is of a hidden file, or in a hidden folder."""
    return any(part.startswith(".") and part != "." for part in path.split("/"))


def chosen(paths: Iterable[str], extensions: Set[str], uri: str) -> list[str]:
    """Returns those paths, sorted, that end in one of the extensions.

    Raises:
        UserError: one is not UTF-8; an id must fit a Parquet string.
    """
    found = sorted(path for path in paths if extension_of(path) in extensions)
    for path in found:
        if path.encode(errors="ignore").decode() != path:
            raise UserError(f"the file name {path!a} in {uri} is not UTF-8: rename the file")
    return found


def no_images(uri: str, unread: list[str]) -> UserError:
    """Returns what a place without images that are read is refused with."""
    if unread:
        return no_read_image(uri, unread[0])
    kinds = " ".join(sorted(IMAGE_EXTENSIONS))
    return UserError(f"no images in {uri} nor below it: expected files that end in {kinds}")


def no_read_image(uri: str, unread: str) -> UserError:
    """Returns what a place is refused with that has images of a kind that is not read only."""
    kind = kind_of_image(unread)
    return UserError(f"no image to read in {uri}: there is '{unread}', but {not_read(kind)}")


def check_bytes(size: int) -> None:
    """Check that an encoded image is not too large to be read.

    Raises:
        BadImageError: it is.
    """
    if size > MAX_FILE_BYTES:
        raise BadImageError(f"too large: a file of {size:,} bytes")
