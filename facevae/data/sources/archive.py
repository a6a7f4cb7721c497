"""Images in a zip or tar archive, read without unpacking it.

An id is a path in the archive without the folders that all its images lie in, so that it is that
of `--images` with the folder which unpacking makes. Archives are anybody's: what they say of
themselves is checked before it is believed.
"""

import contextlib
import errno
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from facevae.data.downloads import (
    WHERE_CELEBA_IS,
    kind_of_content,
    name_broken_download,
    no_data,
    read_head,
)
from facevae.data.images import BadImageError
from facevae.data.sources.image_files import (
    IMAGE_EXTENSIONS,
    UNREAD_EXTENSIONS,
    ImageFiles,
    check_bytes,
    chosen,
    is_hidden,
    no_images,
)
from facevae.errors import UNREADABLE, UserError
from facevae.runs import storage

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""compressions of zip that are read: what they unpack can be bounded"""
BOMB_BYTES, BOMB_RATIO = 2**30, 100
"""an archive that unpacks to more bytes, and to so many times its own, holds no photographs"""
BLOCK_BYTES = 4 * 2**20
"""what one request fetches of an archive in an object store: some hundred images"""
OUTSIDE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")
"""paths that lead out of the folder that an archive would be unpacked into"""


class Zip(NamedTuple):
    """A zip that is open: its images by id."""

    opened: contextlib.ExitStack
    """what keeps it open: a worker reads its images one by one"""
    file: zipfile.ZipFile
    members: Mapping[str, zipfile.ZipInfo]
    unread: Sequence[str]


class Tar(NamedTuple):
    """Where the images of a tar begin, and how many bytes they have, by id."""

    members: Mapping[str, tuple[int, int]]
    unread: Sequence[str]


@dataclass(frozen=True)
class ZipFiles(ImageFiles):
    """The images of a zip archive, on a disk or in an object store."""

    kind: ClassVar[str] = "zip"

    def names(self) -> list[str]:
        """Returns the sorted ids of the images."""
        if not self._zip.members:
            raise no_images(self.uri, self.unread())
        return list(self._zip.members)

    def unread(self) -> list[str]:
        """Returns the sorted paths of the images of kinds that are not read."""
        return list(self._zip.unread)

    def read(self, name: str) -> bytes:
        """Returns a member, unpacked; raises BadImageError or OSError."""
        _, file, members, _ = self._zip
        if name not in members:
            raise FileNotFoundError(f"no '{name}' in {self.uri}")
        info = members[name]
        check_bytes(info.file_size)
        if info.compress_type not in METHODS:
            raise BadImageError("packed in a way that is not read: zip it again with deflate")
        with storage.reading(self.uri):
            try:
                with file.open(info) as member:
                    return member.read(info.file_size)  # a limit: it may unpack to more than said
            except UNREADABLE as error:
                if _is_of_the_disk(error):
                    raise
                raise BadImageError(
                    f"damaged in the archive: {' '.join(str(error).split())}"
                ) from None

    def describe(self) -> dict[str, Any]:
        """Returns a digest of what the archive says of its images: paths, sizes, checksums."""
        members = self._zip.members
        content = [[name, info.file_size, info.CRC] for name, info in members.items()]
        return {"content_digest": storage.value_digest(content)}

    @property
    def _zip(self) -> Zip:
        return _open_zip(self.uri, storage.version_of(self.uri))


@lru_cache(maxsize=4)  # for each task of a process would read the table of contents anew
def _open_zip(uri: str, version: Any) -> Zip:
    with name_broken_download(uri), contextlib.ExitStack() as opened:
        file = _zip_file(uri, opened)
        infos = [info for info in file.infolist() if not info.filename.endswith("/")]
        _check_bomb(uri, sum(info.file_size for info in infos), file)
        by_path = _by_path(uri, [info.filename for info in infos], infos)
        members, unread = _images(uri, by_path)
        for info in members.values():
            if info.flag_bits & 1:
                raise UserError(f"'{info.filename}' in {uri} has a password: unpack the archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _link(uri, info.filename)
        return Zip(opened.pop_all(), file, members, unread)


def _zip_file(uri: str, opened: contextlib.ExitStack) -> zipfile.ZipFile:
    head = _head(uri)
    file = opened.enter_context(storage.open_to_read(uri, BLOCK_BYTES))
    with storage.reading(uri):
        try:
            return zipfile.ZipFile(file)
        except UNREADABLE as error:
            if _is_of_the_disk(error):
                raise
            problem = f"is damaged ({' '.join(str(error).split())})"
            if kind_of_content(head) == "zip":
                problem = "is cut short: the table of contents at its end is missing"
            raise UserError(f"the zip {uri} {problem}; download it again") from None


def _check_bomb(uri: str, unpacked: int, file: zipfile.ZipFile) -> None:
    assert file.fp is not None
    packed = file.fp.seek(0, 2)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise UserError(
            f"{uri} has {packed:,} bytes and says that it unpacks to {unpacked:,}: a zip bomb, no "
            "photographs; do not use it"
        )


@dataclass(frozen=True)
class TarFiles(ImageFiles):
    """The images of a tar archive that is not compressed, on a disk."""

    kind: ClassVar[str] = "tar"

    def names(self) -> list[str]:
        """Returns the sorted ids of the images."""
        if not self._tar.members:
            raise no_images(self.uri, self.unread())
        return list(self._tar.members)

    def unread(self) -> list[str]:
        """Returns the sorted paths of the images of kinds that are not read."""
        return list(self._tar.unread)

    def read(self, name: str) -> bytes:
        """Returns a member; raises BadImageError or OSError."""
        if name not in self._tar.members:
            raise FileNotFoundError(f"no '{name}' in {self.uri}")
        start, size = self._tar.members[name]
        check_bytes(size)
        with Path(self.uri).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def describe(self) -> dict[str, Any]:
        """Returns a digest of where the images are in the archive."""
        content = [[name, *place] for name, place in self._tar.members.items()]
        return {"content_digest": storage.value_digest(content)}

    @property
    def _tar(self) -> Tar:
        return _index_tar(self.uri, storage.version_of(self.uri))


@lru_cache(maxsize=4)  # a tar has no table of contents: its index is made by walking through it
def _index_tar(uri: str, version: Any) -> Tar:
    if not storage.is_local(uri):
        raise UserError(
            f"{uri}: a tar has no table of contents, so all of it would have to be fetched to find "
            "an image: copy it to a disk, or give a zip or Parquet files"
        )
    if kind_of_content(_head(uri)) == "compressed":
        raise UserError(
            f"{uri} is compressed as a whole, so that no image of it can be read alone: unpack it "
            f"(tar -xf {posixpath.basename(uri)}) and give the folder, or a .tar or .zip"
        )
    places: dict[str, tuple[int, int]] = {}
    members = _tar_members(uri)
    by_path = _by_path(uri, [info.name for info in members], members)
    images, unread = _images(uri, by_path)
    size = Path(uri).stat().st_size
    for name, info in images.items():
        if info.islnk() or info.issym():
            raise _link(uri, info.name)
        if info.offset_data + info.size > size:
            raise _short_tar(uri)
        places[name] = (info.offset_data, info.size)
    return Tar(places, unread)


def _tar_members(uri: str) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(uri, "r:") as tar:
            return [info for info in tar if not info.isdir()]
    except (tarfile.TarError, *UNREADABLE) as error:
        if _is_of_the_disk(error):
            raise
        if "unexpected end" in str(error):
            raise _short_tar(uri) from None
        raise UserError(f"the tar {uri} is damaged ({error}); download it again") from None


def _short_tar(uri: str) -> UserError:
    return UserError(f"the tar {uri} is cut short: it ends within a file; download it again")


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it is of where the archive lies; damage makes readers seek before its beginning."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _head(uri: str) -> bytes:
    """Returns the beginning of an archive; refuses what is none."""
    try:
        head = read_head(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no {uri}; {WHERE_CELEBA_IS}") from None
    if not head:
        raise UserError(f"{uri} is empty: download it again")
    if found := no_data(head):
        raise UserError(f"{uri} is {found}")
    return head


def _by_path(uri: str, names: list[str], members: list[Any]) -> dict[str, Any]:
    """Returns the visible members by path.

    Raises:
        UserError: a path leads outside, or there are two of it.
    """
    found: dict[str, Any] = {}
    for name, member in zip(names, members, strict=True):
        path = name.replace("\\", "/")
        if OUTSIDE.match(path):
            raise UserError(
                f"'{name}' in {uri} leads out of the folder that it would be unpacked into: no "
                "honest archive has that; do not use it"
            )
        path = posixpath.normpath(path)
        if is_hidden(path):
            continue
        if path in found:
            raise UserError(f"{uri} holds '{name}' twice: make the archive again, with one of them")
        found[path] = member
    return found


def _images(uri: str, members: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the images by id, sorted, and the paths of those that are not read."""
    images = chosen(members, IMAGE_EXTENSIONS, uri)
    common = posixpath.commonpath([posixpath.dirname(path) for path in images]) if images else ""
    prefix = f"{common}/" if common else ""
    unread = [path.removeprefix(prefix) for path in chosen(members, UNREAD_EXTENSIONS, uri)]
    return {path.removeprefix(prefix): members[path] for path in images}, unread


def _link(uri: str, name: str) -> UserError:
    return UserError(f"'{name}' in {uri} is a link, not an image: unpack it and give the folder")
