"""Stored images chosen anew: some withdrawn, labels corrected, several files together.

Legend: N images of all files, n in a batch, A attributes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from facevae.attributes.folds import UNKNOWN
from facevae.attributes.hdf5 import read_batches, read_image_ids
from facevae.attributes.vectors import LatentBatch, index_of
from facevae.data.sources.matching import match, no_row
from facevae.data.sources.tables import LabelTable
from facevae.errors import UserError


class StoredImages(NamedTuple):
    """The images of some files of vectors, one file after the other."""

    uris: tuple[str, ...]
    image_ids: list[str]
    identities: Int64[np.ndarray, " N"] | None
    """none: of no image it is known who is on it"""

    @classmethod
    def of(cls, uris: Sequence[str], people: Mapping[str, int] | None = None) -> "StoredImages":
        """Reads who is where.

        Args:
            uris: files of vectors.
            people: the number of the person by image id; none: what the files know.

        Raises:
            UserError: an image is in two files, so that it would count twice.
        """
        ids: list[str] = []
        numbers: list[np.ndarray] = []
        is_known = people is not None
        for uri in uris:
            found, known = read_image_ids(uri)
            if people is not None:
                known = np.array([people.get(name, UNKNOWN) for name in found], np.int64)
            is_known = is_known or known is not None
            numbers.append(np.full(len(found), UNKNOWN, np.int64) if known is None else known)
            ids += found
        if len(set(ids)) < len(ids):
            again, _ = Counter(ids).most_common(1)[0]
            raise UserError(
                f"expected each image once, found {again!r} again in {' and '.join(uris)}: it "
                "would count twice; add vectors of other images"
            )
        return cls(tuple(uris), ids, np.concatenate(numbers) if is_known else None)


class Selection(NamedTuple):
    """Which of the stored images count, and with which labels."""

    images: StoredImages
    kept: Bool[np.ndarray, " N"]
    table: LabelTable | None
    """corrected labels"""
    rows: Int64[np.ndarray, " N"] | None
    """the row of each image in that table, -1: none"""
    columns: tuple[int, ...]
    """the attribute of each column of the table"""
    only: tuple[int, ...] | None
    """the attributes to keep; none: all"""

    def batches(self) -> Iterator[LatentBatch]:
        """The images that count, as they lie in the files."""
        start = 0
        for uri in self.images.uris:
            for batch in read_batches(uri):
                place = slice(start, start + len(batch.image_id))
                start = place.stop
                yield self._chosen(self._relabelled(batch, place), place)

    def corrected(self) -> int:
        """How many labels of images that count are other than stored."""
        count, start = 0, 0
        for uri in self.images.uris if self.table is not None else ():
            for batch in read_batches(uri):
                place = slice(start, start + len(batch.image_id))
                start = place.stop
                other = self._relabelled(batch, place).attributes != batch.attributes
                count += int(other[self.kept[place]].sum())
        return count

    def _relabelled(self, batch: LatentBatch, place: slice) -> LatentBatch:
        if self.table is None or self.rows is None:
            return batch
        labels, rows = batch.attributes.copy(), self.rows[place]
        has_row = np.flatnonzero(rows >= 0)
        labels[np.ix_(has_row, np.array(self.columns))] = self.table.labels[rows[has_row]]
        return batch._replace(attributes=labels)

    def _chosen(self, batch: LatentBatch, place: slice) -> LatentBatch:
        rows = np.flatnonzero(self.kept[place])
        labels = batch.attributes[rows]
        people = self.images.identities
        return LatentBatch(
            [batch.image_id[row] for row in rows.tolist()],
            [batch.split[row] for row in rows.tolist()],
            batch.latents[rows],
            labels if self.only is None else np.ascontiguousarray(labels[:, self.only]),
            None if people is None else people[place][rows],
        )


def select(
    images: StoredImages,
    names: Sequence[str],
    *,
    withdrawn: Sequence[str] = (),
    people: Sequence[int] = (),
    table: LabelTable | None = None,
    table_path: str = "",
    only: Sequence[str] | None = None,
) -> Selection:
    """The images without some, with corrected labels.

    Args:
        images: all.
        names: their attributes.
        withdrawn: ids of images to leave out.
        people: people to leave out, by number.
        table: corrected labels; images and attributes that it does not name keep theirs.
        table_path: where it is from.
        only: attributes to keep; none: all.

    Raises:
        UserError: an image, a person or an attribute that is not there, or nothing is left.
    """
    kept = np.ones(len(images.image_ids), bool)
    row_of = {name: row for row, name in enumerate(images.image_ids)}
    for name in withdrawn:
        if name not in row_of:
            raise UserError(
                f"no image {name!r} to withdraw: the {len(row_of)} images run from "
                f"{min(row_of, default='')!r} to {max(row_of, default='')!r}; correct its id, or "
                "leave it out"
            )
        kept[row_of[name]] = False
    _withdraw_people(images, people, kept)
    if not kept.any():
        raise UserError("no image is left: withdraw fewer, or remove the folder of the vectors")
    rows = None if table is None else _rows_of(table, table_path, images.image_ids)
    columns = (
        () if table is None else tuple(_column(name, names, table_path) for name in table.names)
    )
    chosen = None if only is None else tuple(index_of(name, names) for name in only)
    return Selection(images, kept, table, rows, columns, chosen)


def ids_digest(image_ids: Sequence[str]) -> str:
    """The SHA-256 of a set of ids: tells whether it was of these, and does not tell them."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()


def _withdraw_people(images: StoredImages, people: Sequence[int], kept: np.ndarray) -> None:
    if people and images.identities is None:
        raise UserError(
            "who is on which image is not known, so nobody can be withdrawn: give --identities FILE"
        )
    for number in people:
        of_person = images.identities == number
        if number < 0 or not np.any(of_person):
            raise UserError(
                f"no image of person {number} to withdraw: correct the number, or leave it out"
            )
        kept[of_person] = False


def _rows_of(table: LabelTable, path: str, image_ids: Sequence[str]) -> np.ndarray:
    found = match(table.image_ids, image_ids)[0]
    if not found:
        raise no_row(path, table.image_ids, image_ids)
    return np.array([found.get(name, -1) for name in image_ids], np.int64)


def _column(name: str, names: Sequence[str], path: str) -> int:
    try:
        return index_of(name, names)
    except UserError as error:
        raise UserError(
            f"{path} has labels of another set than the vectors: {error}; to add attributes, make "
            "shards with that table"
        ) from error
