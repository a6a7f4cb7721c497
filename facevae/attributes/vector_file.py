"""The HDF5 file of attribute vectors and of the latents they came from.

It has the names and shapes of the original's `attribute_vectors.h5` (see `write_hdf5`), so each
reads the other's; ours adds what the vectors came from, how sure they are, and image names.

Legend: N images in the data set, n in a batch, Z latent size, A attributes.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64

from facevae.attributes.global_heaps import check_global_heaps
from facevae.attributes.vectors import AttributeVectors, LatentBatch, index_of
from facevae.errors import UNREADABLE, UserError
from facevae.storage import atomic_file, open_to_read

VECTORS = "attribute_vectors.h5"
"""the file of a run's vectors in its output folder"""
FORMAT_VERSION = 1
TEXTS_PER_WRITE = 1 << 16
BLOCK_BYTES = 1 << 20
"""what is fetched at once from an object store: HDF5 reads many small pieces"""
MOST_COMPRESSED = 1100
"""how much larger data can be than their file: deflate's best"""
_DIGESTS = ("model_digest", "shards_digest", "labels_digest")


def write_hdf5(
    uri: str | Path, vectors: AttributeVectors, batches: Iterable[LatentBatch], count: int
) -> None:
    """Write vectors and `count` images; a batch of latents and a block of names are in memory.

    As the original: `latent_vars` f64 [N,Z], `attributes` f64 [N,A] in {-1, 0, +1}, `fields` [A]
    strings, `attribute_vectors` f32 [A,Z]. Ours: `image_ids` and `splits` [N] strings,
    `positive_count`, `negative_count` i64 [A], `standard_errors` f32 [A,Z], `valid` bool [A]; file
    attributes `method`, the three digests and `format_version`. The same images give the same
    bytes, however they are cut into batches. Nothing is left behind if a batch fails.

    Raises:
        UserError: the batches do not hold `count` images, or the disk is full.
    """
    attributes, latent_size = vectors.vectors.shape
    done = 0
    with atomic_file(str(uri)) as path, _hdf5_to_write(path) as (raw, file):
        _write_vectors(file, vectors)
        latents = file.create_dataset("latent_vars", (count, latent_size), np.float64)
        labels = file.create_dataset("attributes", (count, attributes), np.float64)
        texts = _Texts(file, ("image_ids", "splits"), count)
        for batch in batches:
            rows = slice(done, done + len(batch.image_id))
            if rows.stop > count:
                raise _wrong_count(uri, count, "more")
            latents[rows], labels[rows] = batch.latents, batch.attributes
            texts.add(batch.image_id, batch.split)
            done = rows.stop
            raw.check()
        if done != count:
            raise _wrong_count(uri, count, str(done))
        texts.finish()


class _Texts:
    """Columns of texts, written in blocks of one size whatever the batches.

    Their places in the file follow the writes.
    """

    def __init__(self, file: h5py.File, names: Sequence[str], count: int) -> None:
        self._columns = [file.create_dataset(name, (count,), h5py.string_dtype()) for name in names]
        self._waiting: list[list[str]] = [[] for _ in names]
        self._written = 0

    def add(self, *columns: Sequence[str]) -> None:
        for waiting, texts in zip(self._waiting, columns, strict=True):
            waiting += texts
        while len(self._waiting[0]) >= TEXTS_PER_WRITE:
            self._write(TEXTS_PER_WRITE)

    def finish(self) -> None:
        if self._waiting[0]:
            self._write(len(self._waiting[0]))

    def _write(self, number: int) -> None:
        rows = slice(self._written, self._written + number)
        for column, waiting in zip(self._columns, self._waiting, strict=True):
            column[rows] = waiting[:number]
            del waiting[:number]
        self._written = rows.stop


def read_vectors(uri: str | Path) -> AttributeVectors:
    """The vectors of a file, ours or the original's.

    The original keeps no counts, errors and digests: counts are taken from its labels, errors are
    NaN and digests empty.

    Raises:
        UserError: the file is missing, cut short, or holds something else.
    """
    with _opened(uri) as file:
        names = tuple(_strings(file["fields"]))
        directions = file["attribute_vectors"][:].astype(np.float32)
        if "valid" in file:
            positive, negative = file["positive_count"][:], file["negative_count"][:]
            errors, valid = file["standard_errors"][:], file["valid"][:]
        else:
            positive, negative = _label_counts(file["attributes"])
            errors = np.full_like(directions, np.nan)
            valid = np.isfinite(directions).all(axis=1)
        return AttributeVectors(
            names=names,
            vectors=directions,
            positive_count=positive,
            negative_count=negative,
            standard_errors=errors,
            valid=valid,
            method=_word(file, "method", "mean_difference"),
            **{digest: _word(file, digest, "") for digest in _DIGESTS},
        )


def find_rows(
    uri: str | Path, attribute: str, label: int = -1, split: str | None = None
) -> Int64[np.ndarray, " n"]:
    """Rows of the images with that label of the attribute, sorted by image name.

    With Smiling and -1, entry k is the k-th face without a smile, which the original edits.

    Raises:
        UserError: there is no such attribute, or the file is not ours.
    """
    with _opened(uri) as file:
        index = index_of(attribute, _strings(file["fields"]))
        chosen = file["attributes"][:, index] == label
        if split is not None:
            chosen &= np.array(_splits(file), dtype=object) == split
        names = _image_ids(file)
    return np.array(sorted(np.flatnonzero(chosen), key=lambda row: names[row]), dtype=np.int64)


def rows_of(uri: str | Path, image_ids: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Rows of the named images, in the order asked for.

    Raises:
        UserError: there is no such image.
    """
    with _opened(uri) as file:
        names = _image_ids(file)
    rows = {name: row for row, name in enumerate(names)}
    for name in image_ids:
        if name not in rows:
            raise UserError(
                f"no image {name!r} in {uri}: its {len(rows)} images run from "
                f"{min(names, default='')!r} to {max(names, default='')!r}; choose one of them"
            )
    return np.array([rows[name] for name in image_ids], dtype=np.int64)


def read_rows(uri: str | Path, rows: Sequence[int] | Int64[np.ndarray, " n"]) -> LatentBatch:
    """Some images of a file, in the order asked for; nothing else is read of latents and labels.

    Latents are f64 as stored. A file of the original knows no image names and splits: zero-padded
    row numbers and "" stand in.

    Raises:
        UserError: a row is out of range, or the file is not ours.
    """
    with _opened(uri) as file:
        count = len(file["latent_vars"])
        if outside := [row for row in rows if not 0 <= row < count]:
            raise UserError(f"no row {outside[0]} in {uri}: it has rows 0 to {count - 1}")
        wanted, order = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        names, splits = _image_ids(file), _splits(file)
        return LatentBatch(
            [names[row] for row in rows],
            [splits[row] for row in rows],
            file["latent_vars"][wanted][order],
            file["attributes"][wanted][order].astype(np.int8),
        )


class _WriteErrorsLater(io.FileIO):
    """A file that keeps its first failure to write in `error` and drops what is written after.

    A write that fails while HDF5 closes a file, as on a full disk, leaves HDF5 in a state in which
    it later ends the whole process (h5py 3.16, HDF5 2.0).
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self.error is None and written < len(view):
                written += super().write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell() if size is None else size

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.error:
            raise self.error


@contextlib.contextmanager
def _hdf5_to_write(path: Path) -> Iterator[tuple[_WriteErrorsLater, h5py.File]]:
    """A new HDF5 file and what it is written through, checked once more at the end."""
    with _WriteErrorsLater(path, "w+b") as raw:
        with h5py.File(raw, "w") as file:
            yield raw, file
        raw.check()


@contextlib.contextmanager
def _opened(uri: str | Path) -> Iterator[h5py.File]:
    """The file, open, holding at least the original's four data sets in matching shapes."""
    try:
        with open_to_read(str(uri), BLOCK_BYTES) as opened, h5py.File(opened, "r") as file:
            check_global_heaps(file, opened)
            _check_layout(uri, file)
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(
            f"no attribute vectors at {uri}; compute them first, or correct the path"
        ) from error
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"cannot read attribute vectors from {uri}: not an HDF5 file, or damaged "
            f"({' '.join(str(error).split())}); compute them again"
        ) from error


def _check_layout(uri: str | Path, file: h5py.File) -> None:
    """Refuse a file of another kind, or of a later version of this one."""
    version = int(file.attrs.get("format_version", FORMAT_VERSION))
    if version > FORMAT_VERSION:
        raise UserError(
            f"{uri} has format version {version}, this program reads up to {FORMAT_VERSION}; "
            "update facevae"
        )
    needed = ("fields", "attribute_vectors", "latent_vars", "attributes")
    if missing := [name for name in needed if not isinstance(file.get(name), h5py.Dataset)]:
        raise UserError(
            f"expected attribute vectors in {uri}, found no data set {missing[0]!r}; give a file "
            "that facevae or the original wrote"
        )
    _check_sizes(uri, file)
    fields, directions, latents, labels = (file[name].shape for name in needed)
    if (
        h5py.check_string_dtype(file["fields"].dtype) is None
        or (len(directions), len(latents), len(labels)) != (2, 2, 2)
        or (*fields, latents[1]) != directions
        or (latents[0], *fields) != labels
    ):
        raise UserError(
            f"shapes in {uri} do not match: fields {fields}, attribute_vectors {directions}, "
            f"latent_vars {latents}, attributes {labels}; give a file that facevae or the "
            "original wrote"
        )


def _check_sizes(uri: str | Path, file: h5py.File) -> None:
    """Refuse a small file that says it holds very much, and columns that do not fit each other."""
    size = file.id.get_filesize()
    sets = {name: each for name in file if isinstance(each := file.get(name), h5py.Dataset)}
    for name, dataset in sets.items():
        if dataset.nbytes > size * (MOST_COMPRESSED if dataset.chunks else 1):
            raise UserError(
                f"{uri} is damaged: it says that {name} has the shape {dataset.shape}, and is far "
                "too small for it; compute it again"
            )
    rows, directions = (sets[name].shape for name in ("latent_vars", "attribute_vectors"))
    expected = {
        **dict.fromkeys(("image_ids", "splits"), rows[:1]),
        **dict.fromkeys(("positive_count", "negative_count", "valid"), directions[:1]),
        "standard_errors": directions,
    }
    for name, shape in expected.items():
        if name in sets and sets[name].shape != shape:
            raise UserError(
                f"{uri} is damaged: {name} has the shape {sets[name].shape}, expected {shape}; "
                "compute it again"
            )


def _wrong_count(uri: str | Path, expected: int, found: str) -> UserError:
    return UserError(
        f"expected latents of {expected} images for {uri}, found {found}; did the shards change "
        "meanwhile? Run it again"
    )


def _write_vectors(file: h5py.File, vectors: AttributeVectors) -> None:
    for name in ("method", *_DIGESTS):
        # Of fixed length: a text in a heap could be anywhere in the file, see `global_heaps`.
        file.attrs[name] = np.bytes_(getattr(vectors, name))
    file.attrs["format_version"] = FORMAT_VERSION
    file.create_dataset("fields", data=list(vectors.names), dtype=h5py.string_dtype())
    file.create_dataset("attribute_vectors", data=vectors.vectors)
    for name in ("positive_count", "negative_count", "standard_errors", "valid"):
        file.create_dataset(name, data=getattr(vectors, name))


def _word(file: h5py.File, name: str, default: str) -> str:
    value = file.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _strings(dataset: h5py.Dataset) -> list[str]:
    return [str(value) for value in dataset.asstr()[:]]


def _image_ids(file: h5py.File) -> list[str]:
    """Image names by row; padded row numbers, which sort alike, where the file has none."""
    if "image_ids" in file:
        return _strings(file["image_ids"])
    count = len(file["latent_vars"])
    return [f"{row:0{len(str(count))}d}" for row in range(count)]


def _splits(file: h5py.File) -> list[str]:
    return _strings(file["splits"]) if "splits" in file else [""] * len(file["latent_vars"])


def _label_counts(labels: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of +1 and of -1 per attribute, int64 [A] each, read in slices."""
    counts = np.zeros((2, labels.shape[1]), np.int64)
    for start in range(0, len(labels), 8192):
        part = labels[start : start + 8192]
        counts += [(part == sign).sum(axis=0) for sign in (1, -1)]
    return counts[0], counts[1]
