"""Shards: the Parquet form of a data set, and the manifest that describes it.

A folder of shards holds `manifest.json`, `quarantine.csv` and `data/<split>-<number>.parquet`; a
shard holds one split only. Nothing downstream reads the raw images again.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int8

from facevae.config import Split
from facevae.errors import UserError, refuse_damaged
from facevae.runs import storage

FORMAT_VERSION = 1
DATA, MANIFEST = "data", "manifest.json"
NAME_PATTERN = r"(?:train|val|test)-\d{5,}"
"""what the names of shards look like"""
# A row group is the unit of reading: small enough to shuffle with, large enough to read at speed.
ROWS_PER_GROUP = 256


class ShardRows(NamedTuple):
    """Rows of one shard: ids, encoded square images and labels in {-1, 0, +1}."""

    image_ids: list[str]
    images: list[bytes]
    attributes: Int8[np.ndarray, "B A"]


@dataclass(frozen=True)
class Shard:
    """What the manifest says of one Parquet file."""

    name: str
    split: Split
    rows: int
    bytes: int
    sha256: str


class Quarantined(NamedTuple):
    """A face that is in no shard, and why."""

    image_id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A data set in shards: label schema, preprocessing, files with digests, where it came from."""

    attribute_names: tuple[str, ...]
    image_size: int
    shards: tuple[Shard, ...]
    source: dict[str, Any]
    preprocessing: dict[str, Any]
    quarantined: dict[str, int]
    missing_labels: bool
    run_id: str | None = None
    framing: str | None = None
    """how the faces lie in the images, in the words of `AlignmentConfig`; none: it is not known"""

    def of_split(self, *splits: Split) -> tuple[Shard, ...]:
        """The shards of some splits, in shard order."""
        return tuple(shard for shard in self.shards if shard.split in splits)

    def rows(self, *splits: Split) -> int:
        """How many images some splits (none: all) hold."""
        return sum(s.rows for s in self.shards if not splits or s.split in splits)

    @property
    def alignment(self) -> dict[str, Any]:
        """How a photograph is cut as these images were, as far as it is known.

        `framing`, `margin`, `size`, and `crop`: the square that was cut out of the aligned face.
        Where aligned faces were not searched again, they lie as CelebA's do.
        """
        recorded, crop = self.preprocessing.get("alignment") or {}, self.preprocessing.get("crop")
        if recorded and isinstance(crop, list):
            left, top, right, bottom = crop
            if right - left != bottom - top:  # stretched: no photograph is cut out like that
                return {}
            known = {name: recorded[name] for name in ("framing", "margin", "size")}
            return {**known, "crop": crop}
        if recorded.get("skip_aligned") and self.framing == "celeba":
            recorded = {}
        framing = recorded.get("framing", self.framing)
        known = {"framing": framing, "margin": recorded.get("margin"), "size": self.image_size}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def digest(self) -> str:
        """The SHA-256 of the content: label schema, preprocessing and the digest of every shard."""
        content = {
            "attribute_names": self.attribute_names,
            "preprocessing": self.preprocessing,
            "shards": [(shard.name, shard.sha256) for shard in self.shards],
        }
        return storage.value_digest(content)

    @property
    def labels_digest(self) -> str:
        """The SHA-256 of the label schema."""
        return storage.value_digest(self.attribute_names)


def shard_uri(folder: str, name: str) -> str:
    """Where a shard of a folder lies."""
    return storage.join(folder, DATA, f"{name}.parquet")


def schema(attribute_count: int) -> pa.Schema:
    """The columns of a shard; one of images without labels has nulls in their place."""
    # Parquet has no lists of no values.
    labels = pa.list_(pa.int8(), attribute_count) if attribute_count else pa.null()
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("split", pa.string()),
            ("image", pa.binary()),
            ("attributes", labels),
            ("width", pa.int32()),
            ("height", pa.int32()),
        ]
    )


def write_shard(
    folder: str,
    name: str,
    split: Split,
    rows: ShardRows,
    image_size: int,
    sources: Sequence[str] | None = None,
) -> Shard:
    """Write one shard, atomically.

    Args:
        folder: of the shards.
        name: of this one.
        split: which it is of.
        rows: what it holds.
        image_size: pixels per side of the images.
        sources: the source of each row, where the data set is merged of several: one more column,
            `source`, for those who read the files otherwise.

    Returns:
        Its entry for the manifest.
    """
    count, attribute_count = rows.attributes.shape
    side = pa.array(np.full(count, image_size, np.int32))
    labels = pa.nulls(count)
    if attribute_count:
        values_of_rows = pa.array(rows.attributes.reshape(-1))
        labels = pa.FixedSizeListArray.from_arrays(values_of_rows, attribute_count)
    images = pa.array(rows.images, pa.binary())
    columns = [pa.array(rows.image_ids, pa.string()), pa.array([split] * count), images, labels]
    table = pa.Table.from_arrays([*columns, side, side], schema=schema(attribute_count))
    if sources is not None:
        table = table.append_column("source", pa.array(sources, pa.string()))
    with storage.atomic_file(shard_uri(folder, name)) as path:
        # JPEG does not shrink further, and uncompressed columns are read without a copy.
        pq.write_table(
            table,
            path,
            row_group_size=ROWS_PER_GROUP,
            compression="none",
            write_page_checksum=True,
        )
        return Shard(name, split, count, path.stat().st_size, storage.file_digest(path))


def read_shard(folder: str, name: str) -> ShardRows:
    """The rows of a shard.

    Raises:
        UserError: the file is missing or damaged.
    """
    uri = shard_uri(folder, name)
    with _refuse_damaged(uri):
        ids, images, labels = read_columns(uri, ("image_id", "image", "attributes"))
        attributes = _labels(labels)
        if not np.isin(attributes, (-1, 0, 1)).all():
            raise ValueError("it has labels beside -1, 0 and 1")
        return ShardRows(values(ids, pa.string()), values(images, pa.binary()), attributes)


def read_images(folder: str, name: str, row_groups: Sequence[int] | None = None) -> list[bytes]:
    """The encoded images of a shard, or of some of its row groups; no other column is fetched.

    Raises:
        UserError: the file is missing, or what is read of it is damaged.
    """
    uri = shard_uri(folder, name)
    with _refuse_damaged(uri):
        (images,) = read_columns(uri, ("image",), row_groups)
        return values(images, pa.binary())


def read_image_ids(folder: str, name: str) -> list[str]:
    """The ids of a shard; no other column is fetched.

    Raises:
        UserError: the file is missing, or what is read of it is damaged.
    """
    uri = shard_uri(folder, name)
    with _refuse_damaged(uri):
        (ids,) = read_columns(uri, ("image_id",))
        return values(ids, pa.string())


def read_labels(folder: str, name: str) -> Int8[np.ndarray, "B A"]:
    """The labels of a shard in {-1, 0, +1}; no other column is fetched.

    Raises:
        UserError: the file is missing, or what is read of it is damaged.
    """
    uri = shard_uri(folder, name)
    with _refuse_damaged(uri):
        (labels,) = read_columns(uri, ("attributes",))
        return _labels(labels)


def _labels(column: pa.ChunkedArray) -> Int8[np.ndarray, "B A"]:
    """A column of labels as a matrix, of no columns where there are none."""
    if pa.types.is_null(column.type):
        return np.empty((len(column), 0), np.int8)
    return matrix(column, pa.int8())


def _refuse_damaged(uri: str) -> AbstractContextManager[None]:
    return refuse_damaged(
        f"damaged shard {uri}",
        "copy the shards again, or make them anew",
        missing=f"no such shard: {uri}; make the shards again",
    )


def read_columns(
    uri: str, names: Sequence[str], row_groups: Sequence[int] | None = None
) -> list[pa.ChunkedArray]:
    """Columns of a Parquet file, or of some of its row groups, checked by its pages' checksums.

    Raises:
        FileNotFoundError: there is no such file.
        One of UNREADABLE: it is damaged.
    """
    try:
        with (
            storage.open_to_read(uri) as opened,
            # The wanted columns of a row group lie side by side, and come in one request.
            pq.ParquetFile(opened, page_checksum_verification=True, pre_buffer=True) as file,
        ):
            groups = range(file.num_row_groups) if row_groups is None else row_groups
            expected = sum(file.metadata.row_group(group).num_rows for group in groups)
            table = file.read_row_groups(list(groups), list(names))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if table.num_rows != expected or (row_groups is None and expected != file.metadata.num_rows):
        raise ValueError(f"{table.num_rows} rows, where {expected} should be")
    table.validate(full=True)
    return [table.column(name) for name in names]


def values(column: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """A column of texts or bytes, as a list.

    Raises:
        ValueError: it is of another kind, or has gaps.
    """
    if column.type != kind or column.null_count:
        raise ValueError(f"a column of {column.type}, where {kind} without gaps should be")
    found: list[Any] = column.to_pylist()
    return found


def matrix(column: pa.ChunkedArray, kind: pa.DataType) -> np.ndarray:
    """A column of lists of one length, as a matrix.

    Raises:
        ValueError: it is of another kind, or has gaps.
    """
    whole = column.combine_chunks()
    if not pa.types.is_fixed_size_list(whole.type) or whole.type.value_type != kind:
        raise ValueError(f"a column of {whole.type}, where lists of {kind} should be")
    flat = whole.flatten()
    if whole.null_count or flat.null_count:
        raise ValueError("a column has gaps")
    flat_values: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return flat_values.reshape(-1, whole.type.list_size)


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Write `manifest.json`: from now on the folder is a finished data set."""
    value = {"format_version": FORMAT_VERSION, "digest": manifest.digest, **asdict(manifest)}
    value["splits"] = {s: manifest.rows(s) for s in ("train", "val", "test")}  # for people
    value["checksum"] = storage.value_digest(value)
    storage.write_json(storage.join(folder, MANIFEST), value)


def read_manifest(folder: str) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        UserError: the folder holds no finished shards, or those of another format.
    """
    uri = storage.join(folder, MANIFEST)
    if not storage.exists(uri):
        raise UserError(f"no shards in {folder}: it has no {MANIFEST}; run `facevae shards`")
    value = storage.read_json(uri)
    try:
        checksum, found = value.pop("checksum", None), storage.value_digest(value)
        version, digest = value.pop("format_version"), value.pop("digest")
        del value["splits"]
        if version != FORMAT_VERSION:
            raise UserError(f"{uri} has format {version}, this program reads {FORMAT_VERSION}")
        value["shards"] = tuple(Shard(**shard) for shard in value["shards"])
        value["attribute_names"] = tuple(value["attribute_names"])
        manifest = Manifest(**value)
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not a manifest of shards ({error})") from error
    # The checksum is of what the digest, the content's name, leaves out.
    if manifest.digest != digest or checksum != found:
        raise UserError(f"{uri} was changed by hand: its digest no longer fits; make it again")
    return manifest


def write_quarantine(folder: str, quarantined: list[Quarantined]) -> None:
    """Write `quarantine.csv`, one row per face that is in no shard."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Quarantined._fields)
    writer.writerows(quarantined)
    with storage.atomic_file(storage.join(folder, "quarantine.csv")) as path:
        path.write_text(text.getvalue(), encoding="utf-8")


def read_quarantine(folder: str) -> list[Quarantined]:
    """The faces that `quarantine.csv` lists."""
    text = storage.read_bytes(storage.join(folder, "quarantine.csv")).decode()
    return [Quarantined(*row) for row in list(csv.reader(io.StringIO(text)))[1:]]


def reasons(quarantined: list[Quarantined]) -> dict[str, int]:
    """How many faces were quarantined for each reason, the most frequent first."""
    return dict(Counter(face.reason for face in quarantined).most_common())
