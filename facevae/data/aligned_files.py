"""Aligned faces as files: a Parquet part for each few hundred photographs, a table, a summary.

A part has the rows of its photographs, in order: one per face, or one that says why there is none.
A row without a face has no image. `alignment.parquet` has the rows of all parts without the images.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from facevae.data.align import Aligned, Status
from facevae.data.aligned_images import REASONS, Unread
from facevae.data.images import encode_jpeg
from facevae.runs import storage

FORMAT_VERSION = 1
PARTS, TABLE, SUMMARY = "parts", "alignment.parquet", "aligned.json"
NAME_PATTERN = r"part-\d{5,}"
"""what the names of parts look like"""
STATUSES: tuple[Status, ...] = ("ok", "no_face", "unreadable", "too_small")
ROWS_PER_GROUP = 256
# Arrow does not read back lists of a fixed length of which some are null.
TABLE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # the photograph's path; of its second face with "#1" behind it
        ("source", pa.string()),  # the photograph's path
        ("index", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("box", pa.list_(pa.int32())),
        ("landmarks", pa.list_(pa.float32())),
        ("to_source", pa.list_(pa.float64())),
    ]
)
PART_SCHEMA = TABLE_SCHEMA.append(pa.field("image", pa.binary()))


@dataclass(frozen=True)
class Part:
    """What the summary says of one Parquet file."""

    name: str
    photographs: int
    rows: int
    bytes: int
    sha256: str


def part_uri(folder: str, name: str) -> str:
    """Where a part of a folder lies."""
    return storage.join(folder, PARTS, f"{name}.parquet")


def face_rows(
    photograph: str, faces: list[Aligned] | Unread, form: Literal["jpeg", "png"]
) -> list[dict[str, Any]]:
    """The rows of one photograph, by column."""
    empty = {field.name: None for field in PART_SCHEMA}
    if isinstance(faces, Unread):
        known = {"image_id": photograph, "source": photograph, "index": 0, **faces._asdict()}
        return [empty | known]
    return [
        {
            "image_id": f"{photograph}#{face.index}" if face.index else photograph,
            "source": photograph,
            "index": face.index,
            "status": face.status,
            "reason": REASONS[face.status],
            "score": None if math.isnan(face.score) else face.score,
            "box": face.box,
            "landmarks": None if face.landmarks is None else face.landmarks.ravel(),
            "to_source": None if face.to_source is None else face.to_source.ravel(),
            "image": None if face.crop is None else _encode(face, form),
        }
        for face in faces
    ]


def _encode(face: Aligned, form: Literal["jpeg", "png"]) -> bytes:
    assert face.crop is not None
    if form == "jpeg":
        return encode_jpeg(face.crop)
    file = io.BytesIO()
    face.crop.save(file, format="PNG")
    return file.getvalue()


def write_part(folder: str, name: str, photographs: int, rows: list[dict[str, Any]]) -> Part:
    """Write one part, atomically; returns its entry for the summary."""
    table = pa.Table.from_pylist(rows, schema=PART_SCHEMA)
    with storage.atomic_file(part_uri(folder, name)) as path:
        pq.write_table(
            table,
            path,
            row_group_size=ROWS_PER_GROUP,
            compression="none",
            write_page_checksum=True,
        )
        return Part(name, photographs, len(rows), path.stat().st_size, storage.file_digest(path))


def write_table(folder: str, parts: Sequence[Part]) -> None:
    """Write `alignment.parquet`, part by part."""
    with (
        storage.atomic_file(storage.join(folder, TABLE)) as path,
        pq.ParquetWriter(path, TABLE_SCHEMA, write_page_checksum=True) as writer,
    ):
        for part in parts:
            with storage.open_to_read(part_uri(folder, part.name)) as file:
                writer.write_table(pq.read_table(file, columns=TABLE_SCHEMA.names))


def photographs_of(folder: str, parts: Sequence[Part], status: Status) -> Iterator[str]:
    """The photographs of a status, in order."""
    for part in parts:
        with storage.open_to_read(part_uri(folder, part.name)) as file:
            table = pq.read_table(file, columns=["source", "status"])
        for row in table.to_pylist():
            if row["status"] == status:
                yield row["source"]


def write_summary(folder: str, parts: Sequence[Part], value: dict[str, Any]) -> None:
    """Write `aligned.json`: from now on the folder is finished."""
    content = {
        "format_version": FORMAT_VERSION,
        "digest": parts_digest(parts),
        **value,
        "parts": [vars(part) for part in parts],
    }
    storage.write_json(storage.join(folder, SUMMARY), content)


def parts_digest(parts: Sequence[Part]) -> str:
    """The SHA-256 of the content: the digest of every part."""
    return storage.value_digest([(part.name, part.sha256) for part in parts])
