"""Shards and their manifest read back as written; damage is one clear line, never wrong data."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facevae.data import shard_files
from facevae.data.shard_files import (
    Manifest,
    Quarantined,
    Shard,
    ShardRows,
    read_image_ids,
    read_images,
    read_labels,
    read_manifest,
    read_shard,
    write_manifest,
    write_quarantine,
    write_shard,
)
from facevae.errors import UserError


def rows(count: int, attributes: int = 5) -> ShardRows:
    rng = np.random.default_rng(count)
    images = [rng.bytes(int(rng.integers(1, 300))) for _ in range(count)]
    labels = rng.integers(-1, 2, (count, attributes)).astype(np.int8)
    return ShardRows([f"straße/{i:03d}.jpg" for i in range(count)], images, labels)


@pytest.fixture
def written(tmp_path) -> tuple[Path, ShardRows]:
    """The file of a shard of 300 rows, and its rows."""
    expected = rows(300)
    write_shard(str(tmp_path), "train-00000", "train", expected, 64)
    return tmp_path / "data" / "train-00000.parquet", expected


def same(found: ShardRows, expected: ShardRows) -> bool:
    return (
        found[:2] == expected[:2]
        and found.attributes.dtype == np.int8
        and np.array_equal(found.attributes, expected.attributes)
    )


@pytest.mark.parametrize(("count", "attributes"), [(0, 5), (1, 5), (256, 5), (257, 5), (300, 0)])
def test_a_shard_reads_back(tmp_path, count, attributes):
    expected = rows(count, attributes)
    shard = write_shard(str(tmp_path), "val-00000", "val", expected, 64)
    path = tmp_path / "data" / "val-00000.parquet"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert shard == Shard("val-00000", "val", count, path.stat().st_size, digest)
    assert read_labels(str(tmp_path), "val-00000").shape == (count, attributes)
    assert same(read_shard(str(tmp_path), "val-00000"), expected)
    assert read_image_ids(str(tmp_path), "val-00000") == expected.image_ids
    np.testing.assert_array_equal(read_labels(str(tmp_path), "val-00000"), expected.attributes)


def test_images_of_row_groups_are_read_in_the_order_asked_for(written, tmp_path):
    images = written[1].images
    assert read_images(str(tmp_path), "train-00000") == images
    assert read_images(str(tmp_path), "train-00000", [1, 0]) == images[256:] + images[:256]


def test_the_columns_are_what_the_documentation_says(written):
    table = pq.read_table(written[0])
    assert table.schema.equals(shard_files.schema(5))
    assert set(table["split"].to_pylist()) == {"train"}
    assert set(table["width"].to_pylist()) == set(table["height"].to_pylist()) == {64}


def read_images_alone(folder: str, name: str) -> ShardRows:
    return ShardRows([], read_images(folder, name), np.empty((0, 5), np.int8))


@pytest.mark.parametrize(("read", "least"), [(read_shard, 100), (read_images_alone, 90)])
def test_damage_is_one_clear_line_and_never_other_rows(written, tmp_path, read, least):
    path, expected = written
    if read is read_images_alone:
        expected = ShardRows([], expected.images, np.empty((0, 5), np.int8))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = read(str(tmp_path), "train-00000")
        except UserError as error:
            refusals.append(str(error))
        else:
            assert same(found, expected)
    assert len(refusals) > least
    assert all(str(path) in line and "\n" not in line for line in refusals)


def test_a_missing_or_foreign_shard_is_one_clear_line(written, tmp_path):
    for read in (read_shard, read_images):
        with pytest.raises(UserError, match=r"no such shard: .*train-00001"):
            read(str(tmp_path), "train-00001")
    foreign = [{"x": [1]}, {"image": ["text"]}, {"image": pa.array([b"jpeg", None], pa.binary())}]
    for columns in foreign:
        pq.write_table(pa.table(columns), written[0])
        for read in (read_shard, read_images):
            with pytest.raises(UserError, match=r"damaged shard .*train-00000"):
                read(str(tmp_path), "train-00000")


def manifest(**changes) -> Manifest:
    values = {
        "attribute_names": ("Smiling", "Male"),
        "image_size": 64,
        "shards": (Shard("train-0", "train", 5, 9, "ab"), Shard("val-0", "val", 3, 9, "cd")),
        "source": {"kind": "drawn"},
        "preprocessing": {"crop": [1, 2, 3, 4]},
        "quarantined": {"truncated": 2},
        "missing_labels": False,
    }
    return Manifest(**(values | changes))


def test_a_manifest_reads_back(tmp_path):
    write_manifest(str(tmp_path), manifest(run_id="r"))
    found = read_manifest(str(tmp_path))
    assert found == manifest(run_id="r")
    assert (found.rows(), found.rows("val"), found.rows("train", "test")) == (8, 3, 5)
    assert [shard.name for shard in found.of_split("val", "train")] == ["train-0", "val-0"]


def test_the_digest_is_that_of_the_content():
    plain = manifest().digest
    assert plain == manifest(source={}, run_id="another", quarantined={}).digest
    others = [
        {"attribute_names": ("Male", "Smiling")},
        {"preprocessing": {}},
        {"shards": manifest().shards[::-1]},
        {"shards": manifest().shards[:1]},
    ]
    digests = {manifest(**changes).digest for changes in others}
    assert len(digests - {plain}) == len(others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format 99, this program reads"),
        ({"attribute_names": ["Male", "Smiling"]}, "changed by hand"),
        ({"unknown": 1}, "not a manifest of shards"),
        ({"shards": [{"name": "train-0"}]}, "not a manifest of shards"),
        ({"shards": 3}, "not a manifest of shards"),
    ],
)
def test_another_manifest_is_refused(tmp_path, change, message):
    write_manifest(str(tmp_path), manifest())
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", "3"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"no manifest\.json; run `facevae shards`"):
        read_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is not a"):
        read_manifest(str(tmp_path))


def test_quarantined_faces_are_listed_and_counted(tmp_path):
    faces = [
        Quarantined("ä,1.jpg", "truncated"),
        Quarantined('"2".jpg', "no label"),
        Quarantined("3.jpg", "truncated"),
    ]
    write_quarantine(str(tmp_path), faces)
    with (tmp_path / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        assert [Quarantined(**row) for row in csv.DictReader(file)] == faces
    assert list(shard_files.reasons(faces).items()) == [("truncated", 2), ("no label", 1)]


@pytest.mark.parametrize("key", ["rows", "missing_labels", "run_id", "source"])
def test_no_part_of_a_manifest_changes_unseen(tmp_path, key):
    shard = Shard("train-00000", "train", 3, 100, "digest")
    manifest = Manifest(("Smiling",), 64, (shard,), {"kind": "drawn"}, {}, {}, False, "run")
    write_manifest(str(tmp_path), manifest)
    path = tmp_path / "manifest.json"
    value = json.loads(path.read_text())
    (value["shards"][0] if key == "rows" else value)[key] = 7
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="was changed by hand"):
        read_manifest(str(tmp_path))


def test_json_that_is_nested_too_deep_is_one_clear_line(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a JSON file"):
        read_manifest(str(tmp_path))
