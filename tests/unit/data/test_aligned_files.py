"""Aligned faces as files: rows, parts, the table and the summary."""

import io
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facevae.data.align import Aligned
from facevae.data.aligned_files import (
    PARTS,
    TABLE,
    face_rows,
    photographs_of,
    write_part,
    write_table,
)
from facevae.data.aligned_images import Unread
from tests.photographs import portrait

MATRIX = np.array([[0.5, 0.0, 3.0], [0.0, 0.5, 4.0]])
LANDMARKS = np.arange(10, dtype=np.float32).reshape(5, 2)
FACES = [
    Aligned(portrait(64), (1, 2, 33, 34), LANDMARKS, 0.9, "ok", 0, MATRIX),
    Aligned(portrait(64), (5, 6, 37, 38), LANDMARKS, 0.8, "ok", 1, MATRIX),
]
LOST = [Aligned(None, None, None, math.nan, "no_face")]


def rows(form="jpeg"):
    return [
        *face_rows("a/one.jpg", FACES, form),
        *face_rows("b.png", LOST, form),
        *face_rows("c.png", Unread("unreadable", "truncated"), form),
    ]


def test_a_part_has_a_row_for_each_face_and_for_each_reason(tmp_path):
    write_part(str(tmp_path), "part-00000", 3, rows())
    read = pq.read_table(tmp_path / PARTS / "part-00000.parquet").to_pylist()
    assert [row["image_id"] for row in read] == ["a/one.jpg", "a/one.jpg#1", "b.png", "c.png"]
    assert [row["source"] for row in read] == ["a/one.jpg", "a/one.jpg", "b.png", "c.png"]
    assert [row["status"] for row in read] == ["ok", "ok", "no_face", "unreadable"]
    assert [row["reason"] for row in read] == ["", "", "no face", "truncated"]
    assert [row["score"] for row in read] == [0.9, 0.8, None, None]
    assert read[0]["box"] == [1, 2, 33, 34]
    np.testing.assert_array_equal(np.reshape(read[1]["landmarks"], (5, 2)), LANDMARKS)
    np.testing.assert_array_equal(np.reshape(read[1]["to_source"], (2, 3)), MATRIX)
    assert [row["image"] is None for row in read] == [False, False, True, True]


@pytest.mark.parametrize(("form", "error"), [("jpeg", 3), ("png", 0)])
def test_the_image_is_the_crop(form, error):
    image = Image.open(io.BytesIO(rows(form)[0]["image"]))
    assert image.format == form.upper()
    difference = np.asarray(image, np.int16) - np.asarray(portrait(64), np.int16)
    assert np.abs(difference).mean() <= error


def test_the_table_has_all_rows_without_the_images(tmp_path):
    folder = str(tmp_path)
    parts = [write_part(folder, f"part-{i:05d}", 3, rows()) for i in range(2)]
    write_table(folder, parts)
    table = pq.read_table(tmp_path / TABLE)
    assert table.num_rows == 8
    assert "image" not in table.column_names
    assert list(photographs_of(folder, parts, "no_face")) == ["b.png", "b.png"]
    first = (tmp_path / TABLE).read_bytes()
    write_table(folder, parts)
    assert (tmp_path / TABLE).read_bytes() == first
