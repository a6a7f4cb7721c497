"""A folder of images with a label table, and how the two are brought together."""

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from facevae.config import LabelEncoding, Split
from facevae.data.images import decode_image, not_read
from facevae.data.sources import FaceListing, hash_split
from facevae.data.sources.tables import (
    LabelTable,
    read_identities,
    read_label_table,
    read_partition,
)
from facevae.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff"),
        *(".gif", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".pbm", ".pgm", ".pnm", ".ppm"),
    )
)
UNREAD_EXTENSIONS = frozenset(
    (
        *(".heic", ".heif", ".heics", ".hif", ".jxl", ".jxr", ".psd", ".svg", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".pef"),
        *(".tga", ".dds", ".ico", ".pcx", ".qoi", ".ras", ".sgi", ".xbm", ".xpm"),
    )
)
"""endings of images that are not read; a label row that has such an image is told so"""

NO_IMAGE = "label row without image"

Value = TypeVar("Value")
Item = TypeVar("Item", int, str)


@dataclass(frozen=True)
class ImageFolderSource:
    """A folder of images with a label table, read when first asked for; an id is a file's path.

    The partition file gives the splits; without one, a hash of the person's identity, else of the
    image's id, so that no person is in two splits.

    Raises:
        UserError: see read_label_table, read_partition, read_identities and list_images; or a
            table is not about these images.
    """

    images: str
    attributes: str
    partition: str | None = None
    identities: str | None = None
    label_encoding: LabelEncoding = "auto"

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the A attributes."""
        return self._table.names

    @property
    def faces(self) -> FaceListing:
        """The images that have a row in every given table, sorted by path."""
        return self._matched[0]

    @property
    def splits(self) -> list[Split]:
        """The split of each face."""
        return self.faces.splits

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """(id, reason): label rows in the table's order, then images sorted by path.

        A row whose image is of a kind that is not read goes by the image's path.
        """
        return self._matched[1]

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture in a file of the folder; raises BadImageError or OSError."""
        return decode_image((Path(self.images) / image_id).read_bytes())

    def describe(self) -> dict[str, Any]:
        """The settings, and the SHA-256 of each table."""
        tables = {
            name: path and {"path": path, "sha256": _sha256(path)}
            for name, path in self._tables.items()
        }
        return {"kind": "image_folder", **asdict(self), **tables}

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the settings, not what was read."""
        return asdict(self)

    @property
    def _tables(self) -> dict[str, str | None]:
        return {
            "attributes": self.attributes,
            "partition": self.partition,
            "identities": self.identities,
        }

    @cached_property
    def _table(self) -> LabelTable:
        return read_label_table(self.attributes, self.label_encoding)

    @cached_property
    def _matched(self) -> tuple[FaceListing, list[tuple[str, str]]]:
        files, ids = list_images(self.images), self._table.image_ids
        rows, reasons = _match(ids, files)
        open_rows = [row for row in range(len(ids)) if reasons.get(row) == NO_IMAGE]
        unread = _unread_of(self.images, ids, open_rows)
        if not rows:
            if unread:
                raise _no_read_image(self.images, next(iter(unread.values())))
            raise _no_row(self.attributes, ids, files)
        partition = _by_file(self.partition, read_partition, files) if self.partition else None
        people = _by_file(self.identities, read_identities, files) if self.identities else None
        unlisted = [
            (unread[row], not_read(_kind(unread[row])))
            if row in unread
            else (ids[row], reasons[row])
            for row in sorted(reasons)
        ]
        listed: list[str] = []
        for file in files:
            if file not in rows:
                unlisted.append((file, "image without label row"))
            elif partition and file not in partition:
                unlisted.append((file, "image without partition row"))
            elif people and file not in people:
                unlisted.append((file, "image without identity row"))
            else:
                listed.append(file)
        if not listed:
            raise UserError(
                f"no image in {self.images} has a row in all tables: "
                + ", ".join(filter(None, self._tables.values()))
            )
        if partition:
            splits = [partition[file] for file in listed]
        else:
            splits = [hash_split(str(people[file] if people else file)) for file in listed]
        attributes = self._table.labels[[rows[file] for file in listed]]
        return FaceListing(listed, splits, attributes), unlisted


def _by_file(
    path: str, read: Callable[[str], dict[str, Value]], files: Sequence[str]
) -> dict[str, Value]:
    """Returns a table's value for each file that it is about."""
    values = read(path)
    ids = list(values)
    rows, _ = _match(ids, files)
    if not rows:
        raise _no_row(path, ids, files)
    return {file: values[ids[row]] for file, row in rows.items()}


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def list_images(folder: str) -> list[str]:
    """Returns the sorted relative POSIX paths of all image files in a folder and those below it.

    Hidden files are passed over; links are followed, and each folder is visited once.

    Raises:
        UserError: the folder is missing, not a folder, unreadable, without images that are read,
            or has a name that is not UTF-8.
    """
    paths = _files(folder, IMAGE_EXTENSIONS)
    if not paths:
        unread = _files(folder, UNREAD_EXTENSIONS)
        if unread:
            raise _no_read_image(folder, unread[0])
        kinds = " ".join(sorted(IMAGE_EXTENSIONS))
        raise UserError(f"no images in {folder} nor below it: expected files that end in {kinds}")
    return paths


def _files(folder: str, extensions: Set[str]) -> list[str]:
    """Returns the sorted relative POSIX paths of the visible files that end in one of these."""
    root = Path(folder)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(f"expected a folder of images at {folder}, found {found}")
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()
    for directory, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = Path(directory).relative_to(root).as_posix() + "/"
        paths += [
            prefix.removeprefix("./") + name
            for name in names
            if not name.startswith(".") and _extension(name) in extensions
        ]
    for path in paths:
        if path.encode(errors="ignore").decode() != path:  # an id must fit a Parquet string
            raise UserError(f"the file name {path!a} in {folder} is not UTF-8: rename the file")
    return sorted(paths)


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}")


def _extension(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _kind(path: str) -> str:
    return _extension(path)[1:].upper()


def _no_read_image(folder: str, unread: str) -> UserError:
    return UserError(
        f"no image to read in {folder}: there is '{unread}', but {not_read(_kind(unread))}"
    )


def _no_row(table: str, ids: Sequence[str], files: Sequence[str]) -> UserError:
    return UserError(
        f"no row of {table} is about an image: its first id is '{ids[0]}', the first image "
        f"'{files[0]}'; ids should be the images' paths or names, with or without extension"
    )


def _unread_of(folder: str, ids: Sequence[str], rows: Sequence[int]) -> dict[int, str]:
    """Returns the image of a kind that is not read, for each of these rows that has one."""
    unread = _files(folder, UNREAD_EXTENSIONS) if rows else []
    found: dict[int, str] = {}
    for key in reversed(KEYS):
        by_key = {key(file): file for file in unread}
        found |= {row: by_key[key(ids[row])] for row in rows if key(ids[row]) in by_key}
    return found


def _match(ids: Sequence[str], files: Sequence[str]) -> tuple[dict[str, int], dict[int, str]]:
    """Returns the row of each file that has one, and the reason of each row that has no file.

    An id may be a file's path, that path with another extension, its name, or its name with
    another extension; the surer way goes first. What fits twice is left out, never guessed.
    """
    rows: dict[str, int] = {}
    reasons: dict[int, str] = {}
    open_rows, open_files = list(range(len(ids))), list(files)
    for key in KEYS:
        rows_of = _grouped(open_rows, [key(ids[row]) for row in open_rows])
        files_of = _grouped(open_files, map(key, open_files))
        for name in rows_of.keys() & files_of.keys():
            same, found = rows_of[name], files_of[name]
            if len(same) == len(found) == 1:
                rows[found[0]] = same[0]
            else:
                reason = f"ambiguous: {len(same)} rows and {len(found)} images are called '{name}'"
                reasons.update(dict.fromkeys(same, reason))
        open_rows = [row for name in rows_of.keys() - files_of.keys() for row in rows_of[name]]
        open_files = [file for name in files_of.keys() - rows_of.keys() for file in files_of[name]]
    reasons.update(dict.fromkeys(open_rows, NO_IMAGE))
    return rows, reasons


def rows_by_file(ids: Sequence[str], files: Sequence[str]) -> dict[str, int]:
    """Returns the row of each file that a table of these ids has a row for, as for labels."""
    return _match(ids, files)[0]


def _grouped(items: Iterable[Item], keys: Iterable[str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return groups


def _stem(path: str) -> str:
    """Returns a path without an image's extension; "v1.0" keeps its ".0"."""
    path = posixpath.normpath(path.replace("\\", "/"))
    root, extension = posixpath.splitext(path)
    is_known = extension.lower() in IMAGE_EXTENSIONS or extension.lower() in UNREAD_EXTENSIONS
    return root if is_known else path


def _name_stem(path: str) -> str:
    return posixpath.basename(_stem(path))


KEYS = (str, _stem, posixpath.basename, _name_stem)
"""how an id may name a file, the surest way first"""
