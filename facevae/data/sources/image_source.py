"""Images in one place with their labels, and how the two are brought together."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from facevae.config import FileNames, LabelEncoding, Split
from facevae.data.downloads import name_broken_download
from facevae.data.images import decode_image, not_read
from facevae.data.sources import FaceListing, hash_split
from facevae.data.sources.file_names import NO_PERSON, NO_UTKFACE, persons, utkface_labels
from facevae.data.sources.image_files import ImageFiles, kind_of_image, no_read_image
from facevae.data.sources.matching import NO_IMAGE, by_file, match, no_row, same_names
from facevae.data.sources.tables import (
    LabelTable,
    read_identities,
    read_label_table,
    read_partition,
)
from facevae.errors import UserError
from facevae.runs import storage

NO_LABEL = "image without label row"

Value = TypeVar("Value")


@dataclass(frozen=True)
class ImageSource:
    """Images with their labels, read when first asked for; an id is that of the image.

    Labels come from a table, from the images' names, or from where the images are; without any
    there are no attributes. So do the splits: where nothing states them, a hash of the person's
    identity, else of the image's id, does, so that no person is in two splits.

    Raises:
        UserError: see read_label_table, read_partition, read_identities and ImageFiles; or a
            table is not about these images.
    """

    files: ImageFiles
    attributes: str | None = None
    partition: str | None = None
    identities: str | None = None
    label_encoding: LabelEncoding = "auto"
    file_names: FileNames | None = None

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of the A attributes."""
        return self._table.names

    @property
    def faces(self) -> FaceListing:
        """The images that have a row in every given table, sorted by id."""
        return self._matched[0]

    @property
    def splits(self) -> list[Split]:
        """The split of each face."""
        return self.faces.splits

    @property
    def unlisted(self) -> list[tuple[str, str]]:
        """(id, reason): label rows in the table's order, then images sorted by id.

        A row whose image is of a kind that is not read goes by the image's path.
        """
        return self._matched[1]

    def load(self, image_id: str) -> Image.Image:
        """The RGB picture of an image; raises BadImageError or OSError."""
        return decode_image(self.files.read(image_id))

    def sources_of(self, image_ids: Sequence[str]) -> None:
        """None: there is but this source."""

    def describe(self) -> dict[str, Any]:
        """The settings, and the SHA-256 of each table."""
        tables = {
            name: path and {"path": path, "sha256": _sha256(path)}
            for name, path in self._tables.items()
        }
        names = {} if self.file_names is None else {"file_names": self.file_names}
        return {
            "kind": self.files.kind,
            "images": self.files.uri,
            **tables,
            "label_encoding": self.label_encoding,
            **names,
            **self.files.describe(),
        }

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the settings, not what was read."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def _tables(self) -> dict[str, str | None]:
        return {
            "attributes": self.attributes,
            "partition": self.partition,
            "identities": self.identities,
        }

    @cached_property
    def _names(self) -> list[str]:
        return self.files.names()

    @cached_property
    def _table(self) -> LabelTable:
        if self.attributes is not None:
            with name_broken_download(self.attributes):
                return read_label_table(self.attributes, self.label_encoding)
        if self.file_names == "utkface":
            return utkface_labels(self.files.uri, self._names)
        labels = self.files.labels(self.label_encoding)
        return _no_labels(self._names) if labels is None else labels

    @cached_property
    def _matched(self) -> tuple[FaceListing, list[tuple[str, str]]]:
        files = self._names
        rows, unlisted = self._rows()
        partition = self._by_file(self.partition, read_partition)
        stated = self.files.splits() if partition is None else None
        people = self._people()
        listed: list[str] = []
        for file in files:
            if file not in rows:
                is_by_name = self.attributes is None and self.file_names == "utkface"
                unlisted.append((file, NO_UTKFACE if is_by_name else NO_LABEL))
            elif partition and file not in partition:
                unlisted.append((file, "image without partition row"))
            elif people and file not in people:
                is_by_name = self.file_names == "lfw"
                unlisted.append((file, NO_PERSON if is_by_name else "image without identity row"))
            else:
                listed.append(file)
        if not listed:
            tables = ", ".join(filter(None, self._tables.values()))
            raise UserError(f"no image in {self.files.uri} has a row in all tables: {tables}")
        keys = [people[file] for file in listed] if people else listed
        if partition:
            splits = [partition[file] for file in listed]
        else:
            splits = _complete(stated or {}, listed, keys)
        attributes = self._table.labels[[rows[file] for file in listed]]
        return FaceListing(listed, splits, attributes), unlisted

    def _rows(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The label row of each image that has one, and (id, reason) of each row without."""
        files, ids = self._names, self._table.image_ids
        rows, reasons = match(ids, files)
        open_rows = [row for row in range(len(ids)) if reasons.get(row) == NO_IMAGE]
        unread = same_names(ids, open_rows, self.files.unread()) if open_rows else {}
        if not rows:
            if unread:
                raise no_read_image(self.files.uri, next(iter(unread.values())))
            raise no_row(self.attributes or self.files.uri, ids, files)
        return rows, [
            (unread[row], not_read(kind_of_image(unread[row])))
            if row in unread
            else (ids[row], reasons[row])
            for row in sorted(reasons)
        ]

    def _people(self) -> dict[str, str] | None:
        """The person on each image, where that is known."""
        if self.file_names == "lfw":
            return persons(self.files.uri, self._names)
        numbers = self._by_file(self.identities, read_identities)
        if numbers is None:
            return None
        return {file: str(number) for file, number in numbers.items()}

    def _by_file(
        self, path: str | None, read: Callable[[str], dict[str, Value]]
    ) -> dict[str, Value] | None:
        """A table's value for each image that it is about; none: there is no such table."""
        if path is None:
            return None
        with name_broken_download(path):
            values = read(path)
        return by_file(path, values, self._names)


def _no_labels(names: list[str]) -> LabelTable:
    return LabelTable((), tuple(names), np.empty((len(names), 0), np.int8))


def _complete(stated: Mapping[str, Split], listed: list[str], keys: list[str]) -> list[Split]:
    """Returns the split of each image: the stated one, else by the hash of its key.

    A split that no image is stated to be in gets its tenth of the train images.
    """
    known = set(stated.values())
    splits: list[Split] = []
    for file, key in zip(listed, keys, strict=True):
        split, hashed = stated.get(file), hash_split(key)
        if split is None or (split == "train" and hashed not in known):
            split = hashed
        splits.append(split)
    return splits


def _sha256(path: str) -> str:
    return hashlib.sha256(storage.read_bytes(path)).hexdigest()
