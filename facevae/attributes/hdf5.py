"""The HDF5 file of attribute vectors and of the latents they came from.

It has the names and shapes of the original's `attribute_vectors.h5` (see `write_hdf5`), so each
reads the other's; ours adds what the vectors came from, how sure they are, directions by other
methods, image names and people.

Legend: N images in the data set, n in a batch, Z latent size, A attributes.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float64, Int8, Int64

from facevae.attributes.deferred_errors import DeferredErrors
from facevae.attributes.global_heaps import check_heaps_of
from facevae.attributes.hdf5_directions import read_directions, write_directions
from facevae.attributes.vectors import AttributeVectors, LatentBatch, index_of
from facevae.errors import UserError, refuse_damaged
from facevae.runs.storage import atomic_file, exists, join, open_to_read

VECTORS = "attribute_vectors.h5"
"""the file of a run's vectors in its output folder"""
FORMAT_VERSION = 1
TEXTS_PER_WRITE = 1 << 16
BLOCK_BYTES = 1 << 20
"""what is fetched at once from an object store: HDF5 reads many small pieces"""
ROWS_PER_READ = 1 << 13
LIBRARY = ("earliest", "v108")
"""the versions of HDF5 that can read the file: the original's h5py has 1.8 or 1.10"""
MOST_COMPRESSED = 1100
"""how much larger data can be than their file: deflate's best"""
_DIGESTS = ("model_digest", "shards_digest", "labels_digest")


def vectors_file(uri: str) -> str:
    """The file of vectors that is meant: the one of a folder, if it is a folder that has one."""
    inside = join(uri, VECTORS)
    return inside if exists(inside) else uri


def write_hdf5(
    uri: str | Path,
    vectors: AttributeVectors,
    batches: Iterable[LatentBatch],
    count: int,
    log: Callable[[Path], None] | None = None,
) -> None:
    """Write vectors and `count` images; a batch of latents and a block of names are in memory.

    As the original: `latent_vars` f64 [N,Z], `attributes` f64 [N,A] in {-1, 0, +1}, `fields` [A]
    strings, `attribute_vectors` f32 [A,Z]. Ours: `image_ids` and `splits` [N] strings,
    `identities` i64 [N] if the batches have them, `positive_count`, `negative_count` i64 [A],
    `standard_errors` f32 [A,Z], `valid` bool [A]; the group `directions`; file attributes `method`,
    the three digests and `format_version`; `lineage`, a data set of its own if there is one. The
    same images give the same bytes, however they are cut into batches. Nothing is left behind if a
    batch fails.

    `log` is called with the whole file, under its own name in a local folder, before it goes to
    `uri`.

    Raises:
        UserError: the batches do not hold `count` images, or the disk is full.
    """
    with atomic_file(str(uri)) as path:
        with DeferredErrors(path, "w+b") as raw:
            with h5py.File(raw, "w", libver=LIBRARY) as file:
                _write_vectors(file, vectors)
                for _ in _write_images(uri, file, vectors.vectors.shape, batches, count):
                    raw.check()
            raw.check()
        if log is not None:
            with tempfile.TemporaryDirectory() as folder:
                named = Path(folder) / Path(uri).name
                named.symlink_to(path)
                log(named)


def _write_vectors(file: h5py.File, vectors: AttributeVectors) -> None:
    for name in ("method", *_DIGESTS):
        # Of fixed length: where a text of an attribute lies in a heap, the library does not tell.
        file.attrs[name] = np.bytes_(getattr(vectors, name))
    file.attrs["format_version"] = FORMAT_VERSION
    if vectors.lineage:  # grows with each derivation, and an attribute holds 64 KiB at most
        file.create_dataset("lineage", data=np.bytes_(vectors.lineage.encode()))
    file.create_dataset("fields", data=list(vectors.names), dtype=h5py.string_dtype())
    file.create_dataset("attribute_vectors", data=vectors.vectors)
    for name in ("positive_count", "negative_count", "standard_errors", "valid"):
        file.create_dataset(name, data=getattr(vectors, name))
    if vectors.directions is not None:
        write_directions(file, vectors.directions)


def _write_images(
    uri: str | Path,
    file: h5py.File,
    shape: tuple[int, ...],
    batches: Iterable[LatentBatch],
    count: int,
) -> Iterator[None]:
    """Write `count` images; yields after each batch."""
    attributes, size = shape
    latents = file.create_dataset("latent_vars", (count, size), np.float64)
    labels = file.create_dataset("attributes", (count, attributes), np.float64)
    texts = [file.create_dataset(n, (count,), h5py.string_dtype()) for n in ("image_ids", "splits")]
    waiting: tuple[list[str], list[str]] = [], []
    done = 0
    for batch in batches:
        rows = slice(done, done + len(batch.image_id))
        done = rows.stop
        if done > count:
            break
        latents[rows], labels[rows] = batch.latents, batch.attributes
        if batch.identities is not None:
            file.require_dataset("identities", (count,), np.int64)[rows] = batch.identities
        waiting[0].extend(batch.image_id)
        waiting[1].extend(batch.split)
        # The places of texts in the file follow the writes: blocks of one size, whatever the batch.
        while len(waiting[0]) >= TEXTS_PER_WRITE or (waiting[0] and done == count):
            first = done - len(waiting[0])
            for dataset, column in zip(texts, waiting, strict=True):
                block = column[:TEXTS_PER_WRITE]
                dataset[first : first + len(block)] = block
                del column[:TEXTS_PER_WRITE]
        yield
    if done != count:
        raise UserError(
            f"expected latents of {count} images for {uri}, found "
            f"{done if done < count else 'more'}; did the shards change meanwhile? Run it again"
        )


class _Opened(NamedTuple):
    """An HDF5 file and its bytes."""

    file: h5py.File
    content: BinaryIO

    def texts(self, name: str) -> list[str]:
        """The texts of a data set, once it is sure that reading them ends."""
        dataset = self.file[name]
        if dataset.dtype.kind == "O":
            check_heaps_of(dataset, self.content)
        return [str(value) for value in dataset.asstr()[:]]

    def attribute(self, name: str, default: Any) -> Any:
        """A number or text that belongs to the file."""
        if name not in self.file.attrs:
            return default
        if self.file.attrs.get_id(name).dtype.kind not in "iuS":
            raise ValueError(f"{name} is neither a whole number nor a text of fixed length")
        value = self.file.attrs[name]
        return value.decode() if isinstance(value, bytes) else value

    def image_ids(self) -> list[str]:
        """Image names by row; padded row numbers, which sort alike, where the file has none."""
        if "image_ids" in self.file:
            return self.texts("image_ids")
        count = len(self.file["latent_vars"])
        return [f"{row:0{len(str(count))}d}" for row in range(count)]

    def splits(self) -> list[str]:
        """The split of each row; "" where the file has none."""
        if "splits" in self.file:
            return self.texts("splits")
        return [""] * len(self.file["latent_vars"])


def read_vectors(uri: str | Path) -> AttributeVectors:
    """The vectors of a file, ours or the original's.

    The original keeps no counts, errors and digests: counts are taken from its labels, errors are
    NaN and digests empty. It has no `directions`, nor have older files of ours.

    Raises:
        UserError: the file is missing, cut short, or holds something else.
    """
    with _opened(uri) as opened:
        file, names = opened.file, tuple(opened.texts("fields"))
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
            method=str(opened.attribute("method", "mean_difference")),
            model_digest=str(opened.attribute("model_digest", "")),
            shards_digest=str(opened.attribute("shards_digest", "")),
            labels_digest=str(opened.attribute("labels_digest", "")),
            directions=read_directions(file, *directions.shape),
            lineage=file["lineage"][()].decode() if "lineage" in file else "",
        )


def read_batches(uri: str | Path, size: int = ROWS_PER_READ) -> Iterator[LatentBatch]:
    """All images of a file in their order, some at a time; latents are f64 as stored.

    Raises:
        UserError: the file is not ours, or has a label other than -1, 0 and +1.
    """
    with _opened(uri) as opened:
        file, names, splits = opened.file, opened.image_ids(), opened.splits()
        people = file.get("identities")
        for start in range(0, len(names), size):
            rows = slice(start, start + size)
            labels = file["attributes"][rows]
            if (wrong := ~np.isin(labels, (-1, 0, 1))).any():
                raise UserError(
                    f"attributes in {uri} holds {labels[wrong][0]:g}: expected -1, 0 and +1; give "
                    "a file that facevae or the original wrote"
                )
            yield LatentBatch(
                names[rows],
                splits[rows],
                file["latent_vars"][rows],
                labels.astype(np.int8),
                None if people is None else people[rows].astype(np.int64),
            )


def read_image_ids(
    uri: str | Path,
) -> tuple[list[str], Int64[np.ndarray, " N"] | None]:
    """The names of all images by row, and the people on them; none if the file does not know.

    Raises:
        UserError: the file is not ours.
    """
    with _opened(uri) as opened:
        people = opened.file.get("identities")
        return opened.image_ids(), None if people is None else people[:].astype(np.int64)


def has_missing_labels(uri: str | Path) -> bool:
    """Whether a label of an image is not known.

    Raises:
        UserError: the file is not ours.
    """
    with _opened(uri) as opened:
        labels = opened.file["attributes"]
        starts = range(0, len(labels), ROWS_PER_READ)
        return any((labels[start : start + ROWS_PER_READ] == 0).any() for start in starts)


def rows_labelled(uri: str | Path, attribute: str, label: int) -> Int64[np.ndarray, " n"]:
    """Rows of the images with that label of the attribute, sorted by image name.

    With Smiling and -1, entry k is the k-th face without a smile, which the original edits.

    Raises:
        UserError: there is no such attribute, or the file is not ours.
    """
    with _opened(uri) as opened:
        index = index_of(attribute, opened.texts("fields"))
        chosen = np.flatnonzero(opened.file["attributes"][:, index] == label)
        names = opened.image_ids()
    return np.array(sorted(chosen, key=lambda row: names[row]), dtype=np.int64)


def rows_of(uri: str | Path, image_ids: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Rows of the named images, in the order asked for.

    Raises:
        UserError: there is no such image.
    """
    with _opened(uri) as opened:
        names = opened.image_ids()
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
    with _opened(uri) as opened:
        file, count = opened.file, len(opened.file["latent_vars"])
        if outside := [row for row in rows if not 0 <= row < count]:
            raise UserError(f"no row {outside[0]} in {uri}: it has rows 0 to {count - 1}")
        wanted, order = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        names, splits = opened.image_ids(), opened.splits()
        return LatentBatch(
            [names[row] for row in rows],
            [splits[row] for row in rows],
            file["latent_vars"][wanted][order],
            file["attributes"][wanted][order].astype(np.int8),
        )


def read_slices(
    uri: str | Path, most_values: int = 25_000_000
) -> Iterator[tuple[Float64[np.ndarray, "n Z"], Int8[np.ndarray, "n A"]]]:
    """Latents and labels of all images, some rows at a time; of very many, evenly spread rows.

    Args:
        uri: the file.
        most_values: numbers in all latents that are read; 200 MB, and all of CelebA.

    Raises:
        UserError: the file is not ours.
    """
    with _opened(uri) as opened:
        latents, labels = opened.file["latent_vars"], opened.file["attributes"]
        starts = np.arange(0, len(latents), ROWS_PER_READ)
        most = max(1, most_values // (ROWS_PER_READ * max(latents.shape[1], 1)))
        if len(starts) > most:
            starts = starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]
        for start in starts:
            rows = slice(int(start), int(start) + ROWS_PER_READ)
            yield latents[rows].astype(np.float64), labels[rows].astype(np.int8)


@contextlib.contextmanager
def _opened(uri: str | Path) -> Iterator[_Opened]:
    """The file, open, holding at least the original's four data sets in matching shapes."""
    with (
        refuse_damaged(
            f"cannot read attribute vectors from {uri}: not an HDF5 file, or damaged",
            "compute them again",
            missing=f"no attribute vectors at {uri}; compute them first, or correct the path",
        ),
        open_to_read(str(uri), BLOCK_BYTES) as content,
        h5py.File(content, "r") as file,
    ):
        opened = _Opened(file, content)
        _check_layout(uri, opened)
        yield opened


def _check_layout(uri: str | Path, opened: _Opened) -> None:
    """Refuse a file of another kind or of a later version, and one that would not fit in memory."""
    version = int(opened.attribute("format_version", FORMAT_VERSION))
    if version > FORMAT_VERSION:
        raise UserError(
            f"{uri} has format version {version}, this program reads up to {FORMAT_VERSION}; "
            "update facevae"
        )
    file = opened.file
    needed = ("fields", "attribute_vectors", "latent_vars", "attributes")
    if missing := [name for name in needed if not isinstance(file.get(name), h5py.Dataset)]:
        raise UserError(
            f"expected attribute vectors in {uri}, found no data set {missing[0]!r}; give a file "
            "that facevae or the original wrote"
        )
    (attributes, size), (images, _) = (
        (*file[name].shape, 0, 0)[:2] for name in ("attribute_vectors", "latent_vars")
    )
    shapes = {
        **dict.fromkeys(("fields", "positive_count", "negative_count", "valid"), (attributes,)),
        **dict.fromkeys(("attribute_vectors", "standard_errors"), (attributes, size)),
        **dict.fromkeys(("image_ids", "splits", "identities"), (images,)),
        "latent_vars": (images, size),
        "attributes": (images, attributes),
        "lineage": (),
    }
    room = file.id.get_filesize()
    for name, shape in shapes.items():
        if name not in file:
            continue
        dataset = file[name]
        if dataset.shape != shape:
            raise UserError(
                f"{name} in {uri} has the shape {dataset.shape}, expected {shape} beside the "
                "others; compute it again, or give a file that facevae or the original wrote"
            )
        if dataset.nbytes > room * (MOST_COMPRESSED if dataset.chunks else 1):
            raise UserError(
                f"{uri} is damaged: it says that {name} has the shape {shape}, and is far too "
                "small for it; compute it again"
            )
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        should_be_text = name in ("fields", "image_ids", "splits", "lineage")
        if is_text != should_be_text or (not is_text and dataset.dtype.kind not in "biuf"):
            raise ValueError(f"{name} holds {dataset.dtype}")


def _label_counts(labels: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of +1 and of -1 per attribute, int64 [A] each, read in slices."""
    counts = np.zeros((2, labels.shape[1]), np.int64)
    for start in range(0, len(labels), ROWS_PER_READ):
        part = labels[start : start + ROWS_PER_READ]
        counts += [(part == sign).sum(axis=0) for sign in (1, -1)]
    return counts[0], counts[1]
