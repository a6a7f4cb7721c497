"""Raw faces: the listing of a user's images and labels, or of drawn faces, and their pictures.

Legend: N images in a data set, A attributes.
"""

import csv
import difflib
import hashlib
import io
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from facevae.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)
# The bytes of int8: tokens of a row become labels without a Python number for each.
_LABEL_BYTES = {"-1": 255, "0": 0, "1": 1, "+1": 1, "-1.0": 255, "0.0": 0, "1.0": 1}
_PARTITIONS: dict[str, Split] = {"0": "train", "1": "val", "2": "test"}

Row = tuple[int, list[str]]
Value = TypeVar("Value")
Item = TypeVar("Item", int, str)


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Attribute names, one id per row, and labels in {-1 absent, 0 unknown, +1 present}."""

    names: tuple[str, ...]
    image_ids: tuple[str, ...]
    labels: Int8[np.ndarray, "N A"]


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


def attribute_index(names: Sequence[str], name: str) -> int:
    """Returns the place of an attribute.

    Raises:
        UserError: no such attribute; the message has the nearest name.
    """
    if name in names:
        return names.index(name)
    by_lower = {known.lower(): known for known in names}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean '{by_lower[nearest[0]]}'?" if nearest else f"the first is '{names[0]}'"
    raise UserError(f"no attribute '{name}' among the {len(names)} known: {hint}")


def hash_split(key: str) -> Split:
    """Returns the split of a person or image: 80/10/10 by SHA-256, the same on every machine."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"


# --- tables --------------------------------------------------------------------------------------


def read_label_table(path: str, encoding: LabelEncoding = "auto") -> LabelTable:
    """Returns a label file: CelebA's text (row count, names, then id and labels) or CSV.

    `encoding` says what 0 means: "signed": unknown; "binary": absent, so it becomes -1; "auto":
    unknown in a file that also holds -1, and an error in one that does not.

    Raises:
        UserError: the file is missing, not such a table, or ambiguous; with the line number.
    """
    has_commas, rows = _read_rows(path)
    stated = None if has_commas else _stated_count(path, rows)
    names = _attribute_names(path, rows, has_commas)
    lines: dict[str, int] = {}
    values = bytearray()
    for line, (image_id, *row) in rows:
        if len(row) != len(names):
            raise _error(path, line, f"expected {len(names)} labels, found {len(row)}")
        _add_id(path, lines, image_id, line)
        try:
            values.extend(map(_LABEL_BYTES.__getitem__, row))
        except KeyError as error:
            raise _error(path, line, f"expected labels -1, 0 or 1, found {error}") from None
    if stated is not None and stated != len(lines):
        raise _error(path, 1, f"says {stated} rows, found {len(lines)}: is the file cut short?")
    if not lines:
        raise UserError(f"{path} has a header and no rows")
    labels = np.frombuffer(values, np.int8).reshape(len(lines), len(names))
    return LabelTable(names, tuple(lines), _signed(path, labels, encoding, tuple(lines.values())))


def read_partition(path: str) -> dict[str, Split]:
    """Returns the split of each image id: rows "id 0|1|2" (train, val, test), text or CSV.

    Raises:
        UserError: the file is missing or not such a table; with the line number.
    """
    return _read_pairs(path, "0, 1 or 2", _PARTITIONS.get)


def read_identities(path: str) -> dict[str, int]:
    """Returns the number of the person on each image: rows "id number", text or CSV.

    Raises:
        UserError: the file is missing or not such a table; with the line number.
    """
    return _read_pairs(path, "a person's number", _whole_number)


def _error(path: str, line: int, message: str) -> UserError:
    return UserError(f"{path}, line {line}: {message}")


def _read_rows(path: str) -> tuple[bool, Iterator[Row]]:
    """Returns whether a table is comma separated, and its rows that are not blank, with lines."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the table {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): is it a table?") from None
    if "\0" in text:
        raise UserError(f"{path} is not text (it holds zero bytes): is it a table?")
    if not text.strip():
        raise UserError(f"{path} is empty: expected a table of images")
    lines = io.StringIO(text, newline=None)
    has_commas = "," in text.lstrip().partition("\n")[0]
    return has_commas, _csv_rows(path, lines) if has_commas else _text_rows(lines)


def _text_rows(lines: io.StringIO) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if row := line.split():
            yield number, row


def _csv_rows(path: str, lines: io.StringIO) -> Iterator[Row]:
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, row
    except csv.Error as error:
        raise _error(path, reader.line_num, str(error)) from None


def _stated_count(path: str, rows: Iterator[Row]) -> int:
    line, row = next(rows)
    if len(row) != 1 or _whole_number(row[0]) is None:
        found = " ".join(row)[:40]
        raise _error(path, line, f"expected a row count or a header with commas, found '{found}'")
    return int(row[0])


def _attribute_names(path: str, rows: Iterator[Row], has_commas: bool) -> tuple[str, ...]:
    expected_line = 1 if has_commas else 2
    line, header = next(rows, (0, []))
    names = tuple(header[1:] if has_commas else header)
    if line != expected_line or not all(names):
        raise _error(path, expected_line, "expected the attributes' names, found none or a blank")
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise _error(path, line, f"the attribute '{repeated[0]}' is named twice")
    return names


def _add_id(path: str, lines: dict[str, int], image_id: str, line: int) -> None:
    first = lines.setdefault(image_id, line)
    if first != line:
        raise _error(path, line, f"'{image_id}' has a row already, in line {first}")


def _signed(
    path: str, labels: Int8[np.ndarray, "N A"], encoding: LabelEncoding, lines: tuple[int, ...]
) -> Int8[np.ndarray, "N A"]:
    """Returns labels in {-1, 0, +1} whose 0 means unknown."""
    negative = (labels < 0).any(axis=1)
    if encoding == "binary":
        if negative.any():
            line = lines[int(negative.argmax())]
            raise _error(path, line, "found -1, but label_encoding binary has only 0 and 1")
        return np.where(labels == 0, np.int8(-1), labels)
    if encoding == "auto" and not negative.any() and not labels.all():
        raise UserError(
            f"{path} holds only 0 and 1, so 0 may mean absent or unknown: "
            "say --sharding.label_encoding binary (absent) or signed (unknown)"
        )
    return labels


def _whole_number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None  # it fits 64 bits


def _read_pairs(path: str, expected: str, parse: Callable[[str], Value | None]) -> dict[str, Value]:
    """Returns id -> value of a table with two columns; the first row of a CSV may be a header."""
    has_commas, rows = _read_rows(path)
    lines: dict[str, int] = {}
    pairs: dict[str, Value] = {}
    for line, row in rows:
        if len(row) != 2:
            raise _error(path, line, f"expected an id and {expected}, found {len(row)} values")
        image_id, text = row
        value = parse(text)
        if value is not None:
            _add_id(path, lines, image_id, line)
            pairs[image_id] = value
        elif not (has_commas and line == 1):
            raise _error(path, line, f"expected {expected}, found '{text[:40]}'")
    if not pairs:
        raise UserError(f"{path} has a header and no rows")
    return pairs


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
