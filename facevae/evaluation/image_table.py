"""`images.parquet`: what was measured of each held-out image, for comparisons that encode nothing.

Legend: n images, A attributes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int8

from facevae.data.shard_files import matrix, values
from facevae.errors import refuse_damaged
from facevae.runs import storage

IMAGES = "images.parquet"
FIGURES = ("kl", "psnr", "ssim", "perceptual_distance", "identity_kept")
"""columns of one number per image; NaN where it was not decoded"""


class ImageRows(NamedTuple):
    """What is known of some held-out images."""

    image_id: list[str]
    identity: list[str]
    """who is on it; the image's own id where that is not known"""
    split: list[str]
    scores: Float32[np.ndarray, "n A"]
    """of attributes; NaN where there is no vector, or no finite latent"""
    labels: Int8[np.ndarray, "n A"]
    figures: dict[str, Float32[np.ndarray, " n"]]
    """by the names in `FIGURES`"""


def write_images(uri: str, parts: Iterable[ImageRows], attributes: int) -> None:
    """Write the table, a row group per part.

    Raises:
        UserError: no permission, or the disk is full.
    """
    text, number = pa.string(), pa.float32()
    schema = pa.schema(
        [
            *((name, text) for name in ("image_id", "identity", "split")),
            ("scores", pa.list_(number, attributes)),
            ("labels", pa.list_(pa.int8(), attributes)),
            *((name, number) for name in FIGURES),
        ]
    )
    with (
        storage.atomic_file(uri) as path,
        pq.ParquetWriter(path, schema, compression="none", write_page_checksum=True) as writer,
    ):
        for part in parts:
            lists = (
                pa.FixedSizeListArray.from_arrays(pa.array(each.reshape(-1)), attributes)
                for each in (part.scores, part.labels)
            )
            figures = (pa.array(part.figures[name], number) for name in FIGURES)
            columns = [*(pa.array(each, text) for each in part[:3]), *lists, *figures]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def read_images(uri: str) -> Iterator[ImageRows]:
    """The table, a row group at a time.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = "remove it, and the same `facevae evaluate` makes it again"
    missing = f"no such table of images: {uri}; let `facevae evaluate` finish there"
    with (
        refuse_damaged(f"damaged table {uri}", remedy, missing=missing),
        storage.open_to_read(uri) as opened,
        _opened(opened) as file,
    ):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            table.validate(full=True)
            yield ImageRows(
                values(table["image_id"], pa.string()),
                values(table["identity"], pa.string()),
                values(table["split"], pa.string()),
                matrix(table["scores"], pa.float32()),
                matrix(table["labels"], pa.int8()),
                {name: _numbers(table[name]) for name in FIGURES},
            )


def _opened(file: object) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _numbers(column: pa.ChunkedArray) -> Float32[np.ndarray, " n"]:
    if column.type != pa.float32() or column.null_count:
        raise ValueError(f"a column of {column.type}, where floats without gaps should be")
    return np.asarray(column.to_numpy())
