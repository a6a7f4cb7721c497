"""Images in Parquet files as Hugging Face keeps them, with labels and splits beside them.

Each row has an image: a struct with its `bytes` (and, maybe, its `path`), or just the bytes.
Columns of true and false, and of whole numbers that are all -1, 0 or 1, are labels. Files are named
after their split (`train-00000-of-00019.parquet`), or a column says it.

Legend: N rows, A label columns.
"""

import contextlib
import posixpath
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int8

from facevae.config import LabelEncoding, Split
from facevae.data.downloads import WHERE_CELEBA_IS, kind_of_content, no_data, read_head
from facevae.data.images import BadImageError
from facevae.data.sources.folder import FolderFiles
from facevae.data.sources.image_files import ImageFiles, check_bytes
from facevae.data.sources.tables import PARTITIONS, LabelTable, signed_labels
from facevae.errors import UNREADABLE, UserError
from facevae.runs import storage
from facevae.runs.progress import log

EXTENSION = ".parquet"
IMAGE_COLUMNS = ("image", "img")
ID_COLUMNS = ("image_id", "file_name", "filename", "id")
SPLIT_COLUMNS = ("split", "partition")
NO_LABELS = (*SPLIT_COLUMNS, "index", "__index_level_0__")
"""columns of small numbers that say which row it is, or which face of a photograph"""
MAX_GROUP_BYTES = 2**30
"""of the images of one row group, which is read as a whole"""
GROUPS_KEPT = 2
_ALIASES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_NAMES = PARTITIONS | {name: split for split, names in _ALIASES.items() for name in names}
"""what data sets call their splits"""
SPLIT_IN_PATH = re.compile(
    r"(?:^|[/_.-])(train|training|val|valid|validation|dev|test|testing)(?=[/_.-])"
)


class Place(NamedTuple):
    """Where a row is: the file, its row group, and the row there."""

    file: int
    group: int
    row: int


class Index(NamedTuple):
    """The Parquet files of a place, and where each image is."""

    uris: Sequence[str]
    paths: Sequence[str]
    """of the files, below the place"""
    schema: pa.Schema
    image: str
    """the column of images"""
    places: dict[str, Place]
    """by id, sorted by it"""
    order: Sequence[int]
    """the row, over all files, of each id"""
    groups: Sequence[Sequence[int]]
    """bytes of each file's row groups"""


@dataclass(frozen=True)
class ParquetFiles(ImageFiles):
    """The images of one Parquet file, or of all below a folder, on a disk or in an object store.

    An id is the path or file name that stands in the row; where there is none, or one is there
    twice, it is the file's name and the number of the row.
    """

    kind: ClassVar[str] = "parquet"

    def names(self) -> list[str]:
        """Returns the sorted ids of the rows."""
        return list(self._index.places)

    def read(self, name: str) -> bytes:
        """Returns the bytes of a row's image; raises BadImageError or OSError."""
        index = self._index
        if name not in index.places:
            raise FileNotFoundError(f"no '{name}' in {self.uri}")
        file, group, row = index.places[name]
        version = storage.version_of(self.uri)
        with _READING:
            images = _read_group(index.uris[file], version, group, index.image)
        data: bytes | None = images[row].as_py()
        if data is None:
            raise BadImageError("the row has no bytes of an image")
        check_bytes(len(data))
        return data

    def labels(self, encoding: LabelEncoding) -> LabelTable:
        """Returns the columns that are labels; the others are named in a line and left out."""
        index = self._index
        names, columns = self._label_columns
        ids, order = tuple(index.places), index.order
        others = [name for name in index.schema.names if name not in (*names, index.image)]
        if others:
            log(f"{self.uri}: columns that are no labels are left out: {', '.join(others)}")
        labels = np.empty((len(ids), len(names)), np.int8)
        truths = [pa.types.is_boolean(index.schema.field(name).type) for name in names]
        for column, (values, is_truth) in enumerate(zip(columns, truths, strict=True)):
            labels[:, column] = _of_truths(values) if is_truth else values.fill_null(0).to_numpy()
        numbers = [column for column, is_truth in enumerate(truths) if not is_truth]
        if numbers:
            labels[:, numbers] = signed_labels(
                self.uri, labels[:, numbers], encoding, range(1, len(ids) + 1)
            )
        return LabelTable(names, ids, labels[list(order)])

    def splits(self) -> dict[str, Split] | None:
        """Returns the split of each id that a column or the name of its file states."""
        index = self._index
        for column in SPLIT_COLUMNS:
            if column in index.schema.names:
                texts = [str(value) for value in self._column(column).to_pylist()]
                named = [SPLIT_NAMES.get(text.lower()) for text in texts]
                if None in named:
                    raise UserError(
                        f"the column '{column}' of {self.uri} says '{texts[named.index(None)]}': "
                        "expected train, validation or test; rename the column if it is no split"
                    )
                return {
                    name: split
                    for name, row in zip(index.places, index.order, strict=True)
                    if (split := named[row])
                }
        of_file = [_split_of(path) for path in index.paths]
        stated = {
            name: split for name, place in index.places.items() if (split := of_file[place.file])
        }
        return stated or None

    def describe(self) -> dict[str, Any]:
        """Returns a digest of the files' names and of the sizes of their row groups."""
        content = list(zip(self._index.paths, self._index.groups, strict=True))
        return {"content_digest": storage.value_digest(content)}

    @property
    def _index(self) -> Index:
        return _index(self.uri, storage.version_of(self.uri))

    def _column(self, name: str) -> pa.ChunkedArray:
        """A column of all files, one after the other."""
        return self._columns([name])[0]

    def _columns(self, names: Sequence[str]) -> list[pa.ChunkedArray]:
        tables = [_read(uri, names) for uri in self._index.uris]
        whole = pa.concat_tables(tables)
        return [whole.column(name) for name in names]

    @cached_property
    def _label_columns(self) -> tuple[tuple[str, ...], list[pa.ChunkedArray]]:
        """The names of the columns that are labels, and these."""
        schema = self._index.schema
        candidates = [
            field.name
            for field in schema
            if field.name not in NO_LABELS
            and (pa.types.is_boolean(field.type) or pa.types.is_integer(field.type))
        ]
        found = dict(zip(candidates, self._columns(candidates), strict=True)) if candidates else {}
        labels = {name: column for name, column in found.items() if _is_label(column)}
        return tuple(labels), list(labels.values())


def _is_label(column: pa.ChunkedArray) -> bool:
    if pa.types.is_boolean(column.type):
        return True
    limits = pc.min_max(column).as_py()
    return limits["min"] is not None and limits["min"] >= -1 and limits["max"] <= 1


def _of_truths(column: pa.ChunkedArray) -> Int8[np.ndarray, " N"]:
    """Returns +1 for true, -1 for false and 0 for what is not known."""
    signs = pc.if_else(column, pa.scalar(1, pa.int8()), pa.scalar(-1, pa.int8()))
    values: np.ndarray = signs.fill_null(0).to_numpy()
    return values


def _split_of(path: str) -> Split | None:
    """Returns the split that a file is named after; its own name beats the folders above it."""
    found = SPLIT_IN_PATH.findall(path.lower())
    return SPLIT_NAMES[found[-1]] if found else None


def parquet_paths(paths: Sequence[str]) -> list[str]:
    """Returns those paths that are of Parquet files."""
    return sorted(path for path in paths if path.lower().endswith(EXTENSION))


@lru_cache(maxsize=4)  # for each task of a process would read the ids anew
def _index(uri: str, version: Any) -> Index:
    place = Path(uri)
    if place.is_file() or (uri.lower().endswith(EXTENSION) and not place.is_dir()):
        uris, paths = [uri], [posixpath.basename(uri)]
    else:
        paths = parquet_paths(FolderFiles(uri).paths)
        uris = [storage.join(uri, path) for path in paths]
    schema, image = None, ""
    ids: list[str | None] = []
    places: list[Place] = []
    groups: list[list[int]] = []
    for number, each in enumerate(uris):
        with _opened(each) as file:
            if schema is None:
                schema = file.schema_arrow
                image = _image_column(each, schema)
            _check_schema(each, file.schema_arrow, uris[0], schema)
            groups.append(list(_group_bytes(file, image)))
            if max(groups[-1], default=0) > MAX_GROUP_BYTES:
                raise UserError(
                    f"a row group of {each} has {max(groups[-1]):,} bytes, too many to be held in "
                    "memory: write the file again with row_group_size=1000"
                )
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                places += [Place(number, group, row) for row in range(count)]
        ids += _ids(each, schema, image) or [None] * (len(places) - len(ids))
    assert schema is not None
    if not places:
        raise UserError(f"{uri} has no rows")
    names = _unique(uri, ids) or _numbered(paths, places)
    order = sorted(range(len(names)), key=names.__getitem__)
    return Index(uris, paths, schema, image, {names[i]: places[i] for i in order}, order, groups)


def _unique(uri: str, ids: Sequence[str | None]) -> list[str] | None:
    known = [name for name in ids if name]
    if len(known) == len(ids) == len(set(known)):
        return known
    if known:
        log(f"{uri}: file names are missing or repeated: images go by file and row")
    return None


def _numbered(paths: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Returns a name for each row, of the file and of the row's number there."""
    names: list[str] = []
    start = 0
    for i, place in enumerate(places):
        if i and place.file != places[i - 1].file:
            start = i
        names.append(f"{paths[place.file].removesuffix(EXTENSION)}/{i - start:08d}")
    return names


def _image_column(uri: str, schema: pa.Schema) -> str:
    found = [field.name for field in schema if _is_image(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in found] or found
    if not named:
        columns = ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
        raise UserError(
            f"{uri} has no column of images: expected one of bytes, or of structs with 'bytes', as "
            f"Hugging Face writes them; found {columns[:300]}"
        )
    if len(named) > 1 and named[0] not in IMAGE_COLUMNS:
        raise UserError(
            f"{uri} has several columns of bytes ({', '.join(named)}): call the one with the "
            "images 'image'"
        )
    return named[0]


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_image(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_schema(uri: str, schema: pa.Schema, first: str, expected: pa.Schema) -> None:
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise UserError(f"{uri} has two columns of the name '{name}': rename one of them")
    if not schema.equals(expected):
        different = {field.name for field in {*schema} ^ {*expected}}
        raise UserError(
            f"{uri} has other columns than {first} ({', '.join(sorted(different))[:200]}): files "
            "of one data set have the same ones; name the others as --sources of their own"
        )


def _ids(uri: str, schema: pa.Schema, image: str) -> list[str | None] | None:
    """Returns the id that each row of a file states; none: they state none."""
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        column = _read(uri, [f"{image}.path"]).column(image)
        found: list[str | None] = pc.struct_field(column, "path").to_pylist()
        if any(found):
            return found
    for name in ID_COLUMNS:
        if name in schema.names and _is_text(schema.field(name).type):
            texts: list[str | None] = _read(uri, [name]).column(name).to_pylist()
            return texts
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _group_bytes(file: pq.ParquetFile, image: str) -> Iterator[int]:
    """Yields the bytes of the images of each row group, unpacked."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        yield sum(
            column.total_uncompressed_size
            for column in columns
            if column.path_in_schema.partition(".")[0] == image
        )


_READING = threading.Lock()
"""one thread reads a row group, and the others then find it read"""


@lru_cache(maxsize=GROUPS_KEPT)  # rows come in the order in which they lie, or nearly so
def _read_group(uri: str, version: Any, group: int, image: str) -> pa.ChunkedArray:
    with _opened(uri) as file:
        column = file.read_row_group(group, [image]).column(image)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _read(uri: str, names: Sequence[str]) -> pa.Table:
    with _opened(uri) as file:
        table = file.read(list(names))
        table.validate(full=True)
    return table


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read parts of; what is wrong with it becomes one line."""
    try:
        with (
            storage.open_to_read(uri) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True, pre_buffer=True) as file,
        ):
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no {uri}; {WHERE_CELEBA_IS}") from None
    except (pa.ArrowException, *UNREADABLE) as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise _damaged(uri, error) from error


def _damaged(uri: str, error: Exception) -> UserError:
    head = read_head(uri)
    if found := no_data(head):
        return UserError(f"{uri} is {found}")
    if kind_of_content(head) == "parquet" and "footer" in str(error):
        return UserError(f"{uri} is cut short: a Parquet file ends with PAR1; download it again")
    reason = " ".join(str(error).split())
    return UserError(f"the Parquet file {uri} is damaged ({reason[:200]}); download it again")
