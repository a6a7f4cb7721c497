"""Raw faces: the listing of a user's images and labels, or of drawn faces, and their pictures.

Legend: N images in a data set, A attributes.
"""

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Int8
from PIL import Image

from facevae.config import LabelEncoding, Split
from facevae.data.drawn import ATTRIBUTE_NAMES, drawn_face, sample_attributes
from facevae.data.images import decode_image
from facevae.data.tables import LabelTable, read_identities, read_label_table, read_partition
from facevae.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)

Value = TypeVar("Value")
Item = TypeVar("Item", int, str)


@dataclass(frozen=True, eq=False)
class FaceListing:
    """The faces of a source, as columns: what is known of them without reading a pixel.

    `identities` holds the number of the person, and is None where the source does not know it.
    """

    image_ids: list[str]
    splits: list[Split]
    attributes: Int8[np.ndarray, "N A"]
    identities: list[int] | None


class FaceSource(Protocol):
    """Where faces come from. A pickle holds settings only, so a Ray task gets a few bytes."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the A attributes."""

    @property
    def faces(self) -> FaceListing:
        """The N usable faces, in a stable order."""

    @property
    def splits(self) -> list[Split]:
        """The split of each usable face, for those who need no more."""

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """(id, reason) of every image or label row that cannot be a face, known before reading."""

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture of a listed face; raises BadImageError or OSError if it has none."""

    def describe(self) -> dict[str, Any]:
        """What a manifest says about this source, as JSON values."""


def hash_split(key: str) -> Split:
    """Returns the split of a person or image: 80/10/10 by SHA-256, the same on every machine."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"


# --- folders -------------------------------------------------------------------------------------


def list_images(folder: str) -> list[str]:
    """Returns the sorted relative POSIX paths of all image files in a folder and those below it.

    Hidden files are passed over; links are followed, and each folder is visited once.

    Raises:
        UserError: the folder is missing, not a folder, unreadable, without images, or has a name
            that is not UTF-8.
    """
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
        paths += [prefix.removeprefix("./") + name for name in names if _is_image(name)]
    if not paths:
        kinds = " ".join(sorted(IMAGE_EXTENSIONS))
        raise UserError(f"no images in {folder} nor below it: expected files that end in {kinds}")
    for path in paths:
        if path.encode(errors="ignore").decode() != path:  # an id must fit a Parquet string
            raise UserError(f"the file name {path!a} in {folder} is not UTF-8: rename the file")
    return sorted(paths)


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}")


def _is_image(name: str) -> bool:
    return not name.startswith(".") and _extension(name) in IMAGE_EXTENSIONS


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _match(
    ids: Sequence[str], files: Sequence[str], table: str
) -> tuple[dict[str, int], dict[int, str]]:
    """Returns the row of each file that has one, and the reason of each row that has no file.

    An id may be a file's path, that path with another extension, its name, or its name with
    another extension; the surer way goes first. What fits twice is left out, never guessed.
    """
    rows: dict[str, int] = {}
    reasons: dict[int, str] = {}
    open_rows, open_files = list(range(len(ids))), list(files)
    for key in (str, _stem, posixpath.basename, _name_stem):
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
    if not rows:
        raise UserError(
            f"no row of {table} is about an image: its first id is '{ids[0]}', the first image "
            f"'{files[0]}'; ids should be the images' paths or names, with or without extension"
        )
    reasons.update(dict.fromkeys(open_rows, "label row without image"))
    return rows, reasons


def _grouped(items: Iterable[Item], keys: Iterable[str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return groups


def _stem(path: str) -> str:
    """Returns a path without an image's extension; "v1.0" keeps its ".0"."""
    path = posixpath.normpath(path.replace("\\", "/"))
    root, extension = posixpath.splitext(path)
    return root if extension.lower() in IMAGE_EXTENSIONS else path


def _name_stem(path: str) -> str:
    return posixpath.basename(_stem(path))


# --- sources -------------------------------------------------------------------------------------


class _Settings:
    """A frozen dataclass that is pickled without what it has read."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # its children are dataclasses


@dataclass(frozen=True)
class ImageFolderSource(_Settings):
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
        """(id, reason): label rows in the table's order, then images sorted by path."""
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
        return {"kind": "image_folder", **self.__getstate__(), **tables}

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
        files = list_images(self.images)
        rows, reasons = _match(self._table.image_ids, files, self.attributes)
        partition = _by_file(self.partition, read_partition, files) if self.partition else None
        people = _by_file(self.identities, read_identities, files) if self.identities else None
        unlisted = [(self._table.image_ids[row], reasons[row]) for row in sorted(reasons)]
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
        identities = [people[file] for file in listed] if people else None
        if partition:
            splits = [partition[file] for file in listed]
        else:
            splits = [hash_split(str(key)) for key in identities or listed]
        attributes = self._table.labels[[rows[file] for file in listed]]
        return FaceListing(listed, splits, attributes, identities), unlisted


@dataclass(frozen=True)
class DrawnSource(_Settings):
    """`count` drawn faces of set `seed`, called as CelebA's: "000001.jpg", "000002.jpg", ..."""

    count: int
    seed: int

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """CelebA's 40 names."""
        return ATTRIBUTE_NAMES

    @cached_property
    def faces(self) -> FaceListing:
        """All faces; no picture is drawn for it."""
        # The labels are the first thing that drawn_face takes from this generator.
        labels = [
            sample_attributes(np.random.default_rng([self.seed, index]))
            for index in range(self.count)
        ]
        return FaceListing(self._image_ids, self.splits, np.stack(labels), None)

    @property
    def splits(self) -> list[Split]:
        """Each face is a person, so ids split 80/10/10."""
        return [hash_split(image_id) for image_id in self._image_ids]

    @property
    def _image_ids(self) -> list[str]:
        return [f"{number:06d}.jpg" for number in range(1, self.count + 1)]

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """Nothing: every drawn face has its labels."""
        return []

    def load(self, image_id: str) -> Image.Image:
        """Draws a face."""
        return drawn_face(self.seed, int(image_id.removesuffix(".jpg")) - 1)[0]

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"kind": "drawn", **self.__getstate__()}


def _by_file(
    path: str, read: Callable[[str], dict[str, Value]], files: Sequence[str]
) -> dict[str, Value]:
    """Returns a table's value for each file that it is about."""
    values = read(path)
    ids = list(values)
    rows, _ = _match(ids, files, path)
    return {file: values[ids[row]] for file, row in rows.items()}


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
