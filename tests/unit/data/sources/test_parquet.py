"""Parquet files as Hugging Face has them: images, labels, splits, and what is wrong with them."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facevae.data.images import BadImageError
from facevae.data.sources import hash_split, parquet
from facevae.data.sources.image_source import ImageSource
from facevae.data.sources.make_source import open_images
from facevae.data.sources.parquet import ParquetFiles
from facevae.data.sources.photographs import Photographs
from facevae.errors import UserError


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "white").save(buffer, "JPEG")
    return buffer.getvalue()


def images(count: int, paths: bool = True, start: int = 0) -> list[dict[str, Any]]:
    rows = range(start, start + count)
    return [{"bytes": b"%d" % row, "path": f"{row:03d}.jpg" if paths else None} for row in rows]


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def refusal(files: ParquetFiles | ImageSource) -> str:
    source = files if isinstance(files, ImageSource) else ImageSource(files)
    with pytest.raises(UserError) as error:
        _ = source.faces
    assert "\n" not in str(error.value)
    return str(error.value)


def test_truths_signs_and_gaps_are_labels_and_other_columns_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "faces.parquet",
        {
            "celeb_id": [7, 8, 9],
            "Smiling": [True, False, None],
            "image": images(3),
            "Male": pa.array([1, -1, None], pa.int8()),
            "caption": ["a", "b", "c"],
            "score": [0.0, 1.0, 1.0],
        },
    )
    faces = ImageSource(ParquetFiles(path)).faces
    assert ImageSource(ParquetFiles(path)).attribute_names == ("Smiling", "Male")
    assert faces.image_ids == ["000.jpg", "001.jpg", "002.jpg"]
    assert faces.attributes.tolist() == [[1, 1], [-1, -1], [0, 0]]
    shown = capsys.readouterr().err
    assert "columns that are no labels are left out: celeb_id, caption, score" in shown


def test_truths_are_never_ambiguous_and_numbers_beside_them_are(tmp_path: Path) -> None:
    columns = {"image": images(2), "A": [True, False], "B": pa.array([0, 1], pa.int64())}
    path = write(tmp_path / "faces.parquet", columns)
    assert "may mean absent or unknown" in refusal(ParquetFiles(path))
    for encoding, expected in (("binary", [[1, -1], [-1, 1]]), ("signed", [[1, 0], [-1, 1]])):
        source = ImageSource(ParquetFiles(path), label_encoding=encoding)  # type: ignore[arg-type]
        assert source.faces.attributes.tolist() == expected


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_are_images_too_and_go_by_an_id_or_by_file_and_row(
    tmp_path: Path, kind: pa.DataType
) -> None:
    data = pa.array([b"0", b"1"], kind)
    path = write(tmp_path / "n.parquet", {"img": data})
    assert ParquetFiles(path).names() == ["n/00000000", "n/00000001"]
    path = write(tmp_path / "m.parquet", {"image": data, "image_id": ["b.jpg", "a.jpg"]})
    files = ParquetFiles(path)
    assert files.names() == ["a.jpg", "b.jpg"]
    assert [files.read(name) for name in files.names()] == [b"1", b"0"]


def test_names_that_are_repeated_are_no_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("x", "y"):
        write(tmp_path / f"{part}.parquet", {"image": images(2)})
    files = ParquetFiles(str(tmp_path))
    assert files.names() == ["x/00000000", "x/00000001", "y/00000000", "y/00000001"]
    assert files.read("y/00000001") == b"1"
    assert "images go by file and row" in capsys.readouterr().err


def test_rows_are_found_in_any_row_group_and_a_group_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(3):
        rows = images(10, start=10 * part)
        write(tmp_path / f"data/p{part}.parquet", {"image": rows}, row_group_size=4)
    files = ParquetFiles(str(tmp_path))
    opened = []
    real = parquet._opened
    files.names()
    monkeypatch.setattr(parquet, "_opened", lambda uri: opened.append(uri) or real(uri))
    assert [files.read(name) for name in files.names()] == [b"%d" % row for row in range(30)]
    assert len(opened) == 9


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "validation-00000-of-00001.parquet", "test-0.parquet"),
        ("data/train.parquet", "data/valid.parquet", "data/test.parquet"),
        ("default/train/0000.parquet", "default/val/0000.parquet", "default/test/0000.parquet"),
        ("test_set/faces_train.parquet", "test_set/dev.parquet", "test_set/x.parquet"),
    ],
)
def test_files_named_after_splits_are_these_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for part, name in enumerate(names):
        write(tmp_path / name, {"image": images(20, start=20 * part)})
    faces = ImageSource(ParquetFiles(str(tmp_path))).faces
    assert faces.splits == ["train"] * 20 + ["val"] * 20 + ["test"] * 20


def test_a_column_says_the_split_and_a_partition_beats_it(tmp_path: Path) -> None:
    columns = {"image": images(3), "split": ["validation", "test", "TRAIN"]}
    path = write(tmp_path / "train.parquet", columns)
    assert ImageSource(ParquetFiles(path)).faces.splits == ["val", "test", "train"]
    (tmp_path / "partition.csv").write_text("image_id,partition\n000,0\n001,0\n002,1\n")
    source = ImageSource(ParquetFiles(path), partition=str(tmp_path / "partition.csv"))
    assert source.faces.splits == ["train", "train", "val"]
    path = write(tmp_path / "odd.parquet", {"image": images(2), "split": ["train", "extra"]})
    assert "the column 'split'" in refusal(ParquetFiles(path))


def test_a_split_that_no_file_has_is_a_tenth_of_train_by_the_hash(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": images(200)})
    write(tmp_path / "test.parquet", {"image": images(20, start=200)})
    faces = ImageSource(ParquetFiles(str(tmp_path))).faces
    for name, split in zip(faces.image_ids, faces.splits, strict=True):
        expected = "val" if hash_split(name) == "val" else "train"
        assert split == (expected if int(name[:3]) < 200 else "test")
    assert faces.splits.count("val") > 5


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"A": [True], "text": ["x"]}, r"has no column of images.*A \(bool\), text \(string\)"),
        ({"a": [b"1"], "b": [b"2"]}, "several columns of bytes"),
        ({"image": pa.array([], pa.binary())}, "has no rows"),
    ],
)
def test_what_is_no_data_set_is_one_line(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "faces.parquet", columns)
    assert re.search(message, refusal(ParquetFiles(path)))


def test_two_columns_of_one_name_and_files_of_different_columns_are_one_line(
    tmp_path: Path,
) -> None:
    truths = pa.array([True])
    table = pa.Table.from_arrays(
        [pa.array(images(1)), truths, truths], names=["image", "Smiling", "Smiling"]
    )
    pq.write_table(table, tmp_path / "faces.parquet")
    files = ParquetFiles(str(tmp_path / "faces.parquet"))
    assert "has two columns of the name 'Smiling'" in refusal(files)
    write(tmp_path / "more/a.parquet", {"image": images(1), "Smiling": [True]})
    write(tmp_path / "more/b.parquet", {"image": images(1), "Male": [True]})
    message = refusal(ParquetFiles(str(tmp_path / "more")))
    assert "b.parquet has other columns than" in message
    assert "Male, Smiling" in message


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "faces.parquet", {"image": images(50)}))
    whole = path.read_bytes()
    for content, message in (
        (whole[:-30], "is cut short"),
        (b"<!DOCTYPE html><html>Quota exceeded", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        (b"", "damaged"),
        (whole[:-8] + b"\xff\xff\xff\x7fPAR1", "damaged"),
    ):
        path.write_bytes(content)
        assert message in refusal(ParquetFiles(str(path)))
    assert "there is no" in refusal(ParquetFiles(str(tmp_path / "none.parquet")))


def test_bytes_that_are_missing_or_too_many_are_one_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"bytes": None, "path": "a.jpg"}, {"bytes": bytes(900), "path": "b.jpg"}]
    files = ParquetFiles(write(tmp_path / "faces.parquet", {"image": rows}))
    monkeypatch.setattr("facevae.data.sources.image_files.MAX_FILE_BYTES", 800)
    for name, reason in (("a.jpg", "has no bytes"), ("b.jpg", "too large: a file of 900 bytes")):
        with pytest.raises(BadImageError, match=reason):
            files.read(name)
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10)
    other = ParquetFiles(write(tmp_path / "other.parquet", {"image": rows}))
    assert "write the file again with row_group_size" in refusal(other)


def test_the_kind_is_told_by_the_content_of_a_file_and_by_what_a_folder_holds(
    tmp_path: Path,
) -> None:
    path = Path(write(tmp_path / "p/faces.parquet", {"image": images(1)}))
    assert open_images(str(path.parent)).kind == "parquet"
    download = path.rename(tmp_path / "p/download")
    assert open_images(str(download)).names() == ["000.jpg"]
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "a.jpg").write_bytes(jpeg())
    write(tmp_path / "i" / "stray.parquet", {"image": images(1)})
    with pytest.raises(UserError, match=r"holds images and Parquet files, such as stray\.parquet"):
        open_images(str(tmp_path / "i"))
    write(tmp_path / "own/data/train-00000.parquet", {"image": images(1)})
    (tmp_path / "own/manifest.json").write_text("{}")
    with pytest.raises(UserError, match="holds shards that facevae made already"):
        open_images(str(tmp_path / "own"))


def test_labels_match_the_rows_however_these_are_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(40)
    rows = [images(40)[row] for row in order]
    truths = [bool(row % 3 == 0) for row in order]
    path = write(tmp_path / "f.parquet", {"image": rows, "A": truths}, row_group_size=7)
    faces = ImageSource(ParquetFiles(path)).faces
    assert faces.image_ids == sorted(faces.image_ids)
    assert faces.attributes[:, 0].tolist() == [1 if row % 3 == 0 else -1 for row in range(40)]


def test_what_align_leaves_is_a_source_and_its_numbers_are_no_labels(tmp_path: Path) -> None:
    columns = {"image": images(3), "index": pa.array([0, 0, 1], pa.int32())}
    write(tmp_path / "aligned/parts/part-00000.parquet", columns)
    write(tmp_path / "aligned/alignment.parquet", {"index": columns["index"]})
    (tmp_path / "aligned/aligned.json").write_text("{}")
    (tmp_path / "aligned/lost_faces.png").write_bytes(jpeg())
    files = open_images(str(tmp_path / "aligned"))
    assert len(files.names()) == 3
    table = files.labels("auto")
    assert table is not None
    assert table.names == ()


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "real/faces.parquet", {"image": images(2)})
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data").symlink_to(tmp_path / "real")
    assert len(open_images(str(tmp_path / "set")).names()) == 2


def test_other_photographs_of_the_same_names_are_told(tmp_path: Path) -> None:
    place = tmp_path / "faces.parquet"
    told = []
    for count in (2, 3):
        write(place, {"image": images(count)})
        told.append(Photographs(ParquetFiles(str(place))).describe())
    assert told[0] != told[1]
