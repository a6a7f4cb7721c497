"""Tables of labels, folders of images, and how the two are brought together."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facevae.data.drawn import ATTRIBUTE_NAMES, drawn_face
from facevae.data.images import BadImageError
from facevae.data.sources import (
    DrawnSource,
    ImageFolderSource,
    attribute_index,
    hash_split,
    list_images,
    read_identities,
    read_label_table,
    read_partition,
)
from facevae.errors import UserError

CELEBA = "3\nSmiling Male\na.jpg  1 -1\nb.jpg -1 -1\nc.jpg -1  1\n"
KAGGLE = "image_id,Smiling,Male\na.jpg,1,-1\nb.jpg,-1,-1\nc.jpg,-1,1\n"
LABELS = [[1, -1], [-1, -1], [-1, 1]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a table and returns its path."""

    def write_table(content: str | bytes, name: str = "table.txt") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_table


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder of small images and returns its path."""

    def make(*names: str) -> str:
        folder = tmp_path / "images"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), "white").save(folder / name)
        return str(folder)

    return make


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- label tables --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        CELEBA,
        KAGGLE,
        CELEBA.replace("\n", "\r\n"),
        KAGGLE.replace("\n", "\r\n"),
        "\ufeff" + KAGGLE,  # as Excel saves it
        CELEBA + "\n\n",
        KAGGLE + ",,\n",
        CELEBA.replace("  ", "\t"),
        KAGGLE.replace(",", ", "),
        KAGGLE.replace("a.jpg", '"a.jpg"'),
        KAGGLE.replace("1", "1.0"),  # as pandas saves a column that had a hole
    ],
)
def test_celeba_text_and_csv_say_the_same(write: Callable[..., str], text: str) -> None:
    table = read_label_table(write(text))
    assert table.names == ("Smiling", "Male")
    assert table.image_ids == ("a.jpg", "b.jpg", "c.jpg")
    assert table.labels.dtype == np.int8
    np.testing.assert_array_equal(table.labels, LABELS)


@pytest.mark.parametrize("attributes", [1, 2, 41, 300])
def test_any_number_of_attributes(write: Callable[..., str], attributes: int) -> None:
    labels = np.random.default_rng(0).integers(-1, 2, (50, attributes))
    rows = [f"{i}.png " + " ".join(map(str, row)) for i, row in enumerate(labels.tolist())]
    names = " ".join(f"attribute_{i}" for i in range(attributes))
    table = read_label_table(write("\n".join(["50", names, *rows])))
    assert len(table.names) == attributes
    np.testing.assert_array_equal(table.labels, labels)


@pytest.mark.parametrize(
    ("text", "encoding", "labels"),
    [
        ("2\nA B\nx 1 0\ny -1 1\n", "auto", [[1, 0], [-1, 1]]),
        ("2\nA B\nx 1 0\ny -1 1\n", "signed", [[1, 0], [-1, 1]]),
        ("2\nA B\nx 1 0\ny 0 1\n", "signed", [[1, 0], [0, 1]]),
        ("2\nA B\nx 1 0\ny 0 1\n", "binary", [[1, -1], [-1, 1]]),
        ("2\nA B\nx 1 1\ny 1 1\n", "auto", [[1, 1], [1, 1]]),
    ],
)
def test_what_zero_means(
    write: Callable[..., str], text: str, encoding: Any, labels: list[list[int]]
) -> None:
    found = read_label_table(write(text), encoding).labels
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("text", ["2\nA B\nx 1 0\ny 0 1\n", "i,A\nx,0\ny,1\n", "i,A\nx,0\n"])
def test_zero_and_one_alone_are_ambiguous(write: Callable[..., str], text: str) -> None:
    with pytest.raises(UserError) as error:
        read_label_table(write(text))
    assert "--sharding.label_encoding binary (absent) or signed (unknown)" in one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"\xff\xd8\xff\xe0 JFIF", "is not UTF-8 text"),
        (CELEBA.encode("utf-16"), "is not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "zero bytes"),
        (CELEBA.replace("3", "4", 1), "line 1: says 4 rows, found 3"),
        (CELEBA.replace("3", "2", 1), "line 1: says 2 rows, found 3"),
        (CELEBA.replace("3", "three", 1), "line 1: expected a row count .* found 'three'"),
        (CELEBA[2:], "line 1: expected a row count or a header with commas, found 'Smiling Male'"),
        ("3\n", "line 2: expected the attributes' names"),
        ("1\n\na.jpg 1\n", "line 2: expected the attributes' names"),
        ("image_id,\na.jpg,1\n", "line 1: expected the attributes' names"),
        ("0\nSmiling Male\n", "no rows"),
        ("image_id,Smiling\n", "no rows"),
        (CELEBA.replace("Male", "Smiling"), "line 2: the attribute 'Smiling' is named twice"),
        (CELEBA.replace("b.jpg -1 -1", "b.jpg -1"), "line 4: expected 2 labels, found 1"),
        (CELEBA.replace("b.jpg -1 -1", "b.jpg -1 -1 1"), "line 4: expected 2 labels, found 3"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg"), "line 4: expected 2 labels, found 1"),
        (CELEBA.replace("  1", "  2"), "line 3: expected labels -1, 0 or 1, found '2'"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg,"), "line 4: expected labels -1, 0 or 1, found ''"),
        (KAGGLE.replace("c.jpg,-1", "c.jpg,yes"), "line 4: .* found 'yes'"),
        (CELEBA.replace("c.jpg", "a.jpg"), "line 5: 'a.jpg' has a row already, in line 3"),
        (KAGGLE.replace("c.jpg", "a.jpg"), "line 4: 'a.jpg' has a row already, in line 2"),
        (KAGGLE + '"' + "x" * 200_000, "line 5: field larger than field limit"),
    ],
)
def test_faulty_label_tables_name_file_and_line(
    write: Callable[..., str], content: str | bytes, message: str
) -> None:
    path = write(content)
    with pytest.raises(UserError, match=message) as error:
        read_label_table(path)
    assert one_line(error).startswith(path)


def test_minus_one_in_a_binary_table(write: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"line 4: found -1, but label_encoding binary"):
        read_label_table(write("2\nA B\nx 1 0\ny -1 1\n"), "binary")


@pytest.mark.parametrize("read", [read_label_table, read_partition, read_identities])
def test_missing_table_and_folder_for_a_table(tmp_path: Path, read: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(str(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="directory"):
        read(str(tmp_path))


# --- partitions and identities -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a 0\nb 1\nc 2\n", "image_id,partition\na,0\nb,1\nc,2\n", "a,0\nb,1\nc,2\n"]
)
def test_partition(write: Callable[..., str], text: str) -> None:
    assert read_partition(write(text)) == {"a": "train", "b": "val", "c": "test"}


@pytest.mark.parametrize("text", ["a 2880\nb 7\n", "image_id,identity\na,2880\nb,7\n"])
def test_identities(write: Callable[..., str], text: str) -> None:
    assert read_identities(write(text)) == {"a": 2880, "b": 7}


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_partition, "", "is empty"),
        (read_partition, "a 0\nb 3\n", "line 2: expected 0, 1 or 2, found '3'"),
        (read_partition, "image_id partition\na 0\n", "line 1: .* found 'partition'"),
        (read_partition, "a 0\nb\n", "line 2: expected an id and 0, 1 or 2, found 1 values"),
        (read_partition, "a 0\nb 1 2\n", "line 2: .* found 3 values"),
        (read_partition, "a 0\na 0\n", "line 2: 'a' has a row already, in line 1"),
        (read_partition, "image_id,partition\n", "no rows"),
        (read_identities, "a 1\nb Ann\n", "line 2: expected a person's number, found 'Ann'"),
        (read_identities, "a 1\nb -1\n", "line 2: expected a person's number, found '-1'"),
        (read_identities, f"a {10**30}\n", "line 1: expected a person's number"),
        (read_identities, "x,y\na,1\nb,\n", "line 3: expected a person's number, found ''"),
    ],
)
def test_faulty_pairs_name_the_line(
    write: Callable[..., str], read: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(write(text))
    one_line(error)


# --- hash split ----------------------------------------------------------------------------------


def test_hash_split_is_pinned_and_has_its_proportions() -> None:
    """A change of these moves faces between training and test of every user: never change them."""
    assert [hash_split(key) for key in ("000001.jpg", "000010.jpg", "2880")] == [
        "val",
        "test",
        "train",
    ]
    splits = [hash_split(str(i)) for i in range(20_000)]
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        deviation = (share * (1 - share) / 20_000) ** 0.5
        assert abs(splits.count(split) / 20_000 - share) < 4 * deviation


# --- folders -------------------------------------------------------------------------------------


def test_list_images_is_sorted_recursive_and_picky(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.jpeg", "n/z/1.webp", "n/2.tif", ".hid.jpg", ".git/x.png", "t.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "n" / "loop").symlink_to(tmp_path)
    (tmp_path / "n" / "self.jpg").symlink_to("self.jpg")
    paths = ["a.jpeg", "b.JPG", "n/2.tif", "n/self.jpg", "n/z/1.webp"]
    assert list_images(str(tmp_path)) == paths
    (tmp_path / "link").symlink_to("n")
    assert len(list_images(f"{tmp_path}/link/")) == len(paths)  # the root, through the loop, too


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "part1").symlink_to(tmp_path / "elsewhere")
    assert list_images(str(tmp_path / "images")) == ["part1/a.jpg"]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for path, message in (
        (tmp_path / "nothing", "expected a folder of images at .*, found nothing"),
        (tmp_path / "notes.txt", "expected a folder of images at .*, found a file"),
        (tmp_path, "no images in"),
    ):
        with pytest.raises(UserError, match=message) as error:
            list_images(str(path))
        one_line(error)


def test_a_name_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    with pytest.raises(UserError, match=r"the file name '.udcff\.jpg' in .* is not UTF-8"):
        list_images(str(tmp_path))


# --- image folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "b.jpg", "c.jpg"),  # as the labels say
        ("a.png", "b.webp", "c.JPG"),  # converted
        ("1/a.jpg", "2/b.jpg", "2/deep/c.jpg"),  # sorted into folders
        ("1/a.png", "b.jpg", "3/c.gif"),  # all of these
    ],
)
@pytest.mark.parametrize("table", [CELEBA, KAGGLE])
def test_labels_find_their_images(
    write: Callable[..., str], images: Callable[..., str], files: tuple[str, ...], table: str
) -> None:
    source = ImageFolderSource(images(*files), write(table))
    assert source.attribute_names == ("Smiling", "Male")
    assert source.faces.image_ids == sorted(files)
    order = [files.index(name) for name in sorted(files)]
    np.testing.assert_array_equal(source.faces.attributes, np.array(LABELS)[order])
    assert source.unlisted == []
    assert source.load(files[0]).size == (20, 20)


@pytest.mark.parametrize("label", ["1/x.jpg", "./1/x.jpg", "1\\x.jpg", "1/x.png", "1/x"])
def test_a_path_is_surer_than_a_name(
    write: Callable[..., str], images: Callable[..., str], label: str
) -> None:
    folder = images("1/x.jpg", "2/x.jpg", "3/x.jpg")
    source = ImageFolderSource(folder, write(f"2\nA\n{label} 1\n2/x.jpg -1\n"))
    assert source.faces.image_ids == ["1/x.jpg", "2/x.jpg"]
    assert source.faces.attributes.tolist() == [[1], [-1]]
    assert source.unlisted == [("3/x.jpg", "image without label row")]


def test_a_dot_in_a_name_is_not_an_extension(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    source = ImageFolderSource(
        images("img.001.png", "img.002.png"), write("2\nA\nimg.001 1\nimg.002 -1\n")
    )
    assert source.faces.attributes.tolist() == [[1], [-1]]


def test_what_fits_twice_is_quarantined_not_guessed(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    folder = images("1/x.jpg", "2/x.jpg", "y.png", "y.webp", "z.png", "ok.jpg")
    rows = "x.jpg 1\ny.jpg 1\nz.jpg 1\nz.gif -1\nok.jpg 1\nx.png 1\n"
    source = ImageFolderSource(folder, write(f"6\nA\n{rows}"))
    assert source.faces.image_ids == ["ok.jpg"]
    reasons = dict(source.unlisted)
    assert reasons["x.jpg"] == "ambiguous: 1 rows and 2 images are called 'x.jpg'"
    assert reasons["y.jpg"] == "ambiguous: 1 rows and 2 images are called 'y'"
    assert reasons["z.jpg"] == reasons["z.gif"]
    assert reasons["z.gif"] == "ambiguous: 2 rows and 1 images are called 'z'"
    assert reasons["x.png"] == "label row without image"
    assert reasons["1/x.jpg"] == "image without label row"
    assert len(source.unlisted) == 5 + 5  # every other row and image, once


def test_unmatched_rows_and_images_are_quarantined(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    source = ImageFolderSource(images("c.jpg", "a.jpg", "extra.jpg"), write(CELEBA))
    assert source.faces.image_ids == ["a.jpg", "c.jpg"]
    assert source.unlisted == [
        ("b.jpg", "label row without image"),
        ("extra.jpg", "image without label row"),
    ]


def test_a_table_about_other_images_is_an_error(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    source = ImageFolderSource(images("other.png"), write(CELEBA))
    with pytest.raises(UserError, match=r"first id is 'a\.jpg', the first image 'other\.png'"):
        _ = source.faces


def test_partition_and_identities(write: Callable[..., str], images: Callable[..., str]) -> None:
    folder = images("1/a.png", "1/b.png", "1/c.png")
    labels, partition = write(CELEBA), write("a.jpg 2\nc.jpg 1\n", "partition.txt")
    people = write("a.jpg 5\nb.jpg 6\nnot_here.jpg 6\n", "people.txt")

    source = ImageFolderSource(folder, labels, partition)
    assert source.faces.image_ids == ["1/a.png", "1/c.png"]
    assert source.faces.splits == ["test", "val"]
    assert source.faces.identities is None
    assert source.unlisted == [("1/b.png", "image without partition row")]

    source = ImageFolderSource(folder, labels, identities=people)
    assert source.faces.image_ids == ["1/a.png", "1/b.png"]
    assert source.faces.identities == [5, 6]
    assert source.unlisted == [("1/c.png", "image without identity row")]

    only_c = write("c.jpg 0\n", "partition.txt")
    with pytest.raises(UserError, match=r"no image in .* has a row in all tables"):
        _ = ImageFolderSource(folder, labels, only_c, people).faces


def test_no_person_is_in_two_splits(write: Callable[..., str], images: Callable[..., str]) -> None:
    names = [f"{i}.png" for i in range(90)]
    labels = write("90\nA\n" + "".join(f"{name} 1\n" for name in names))
    people = write("".join(f"{name} {i % 30}\n" for i, name in enumerate(names)), "people.txt")
    faces = ImageFolderSource(images(*names), labels, identities=people).faces
    assert faces.identities is not None
    assert len(set(zip(faces.identities, faces.splits, strict=True))) == 30
    assert set(faces.splits) == {"train", "val", "test"}
    by_id = ImageFolderSource(images(), labels).faces
    assert by_id.splits == [hash_split(name) for name in by_id.image_ids]


def test_bad_files_are_the_loader_s_business(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    folder = images("a.jpg", "b.jpg", "c.jpg")
    source = ImageFolderSource(folder, write(CELEBA))
    Path(folder, "a.jpg").write_bytes(b"")
    assert len(source.faces.image_ids) == 3
    with pytest.raises(BadImageError, match="empty file"):
        source.load("a.jpg")
    Path(folder, "b.jpg").unlink()
    with pytest.raises(OSError, match="No such file"):
        source.load("b.jpg")


# --- both sources --------------------------------------------------------------------------------


def test_pickles_hold_settings_only(write: Callable[..., str], images: Callable[..., str]) -> None:
    folder = ImageFolderSource(images("a.jpg"), write(CELEBA))
    drawn = DrawnSource(count=1000, seed=3)
    for source in (folder, drawn):
        assert source.faces.image_ids
        sent = pickle.dumps(source)
        assert len(sent) < 1000
        received = pickle.loads(sent)  # noqa: S301 - our own bytes
        assert received == source
        assert received.faces.splits == source.faces.splits


def test_descriptions_are_json_and_follow_the_tables_content(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    source = ImageFolderSource(images("a.jpg"), write(CELEBA))
    before = json.loads(json.dumps(source.describe()))
    assert before["kind"] == "image_folder"
    assert before["partition"] is None
    write(CELEBA.replace("a.jpg  1", "a.jpg -1"))
    assert source.describe() != before
    assert DrawnSource(5, 1).describe() == {"kind": "drawn", "count": 5, "seed": 1}


def test_drawn_labels_are_those_of_the_drawn_pictures() -> None:
    source = DrawnSource(count=12, seed=7)
    faces = source.faces
    assert source.attribute_names == ATTRIBUTE_NAMES
    assert faces.image_ids[0] == "000001.jpg"
    assert faces.splits == [hash_split(image_id) for image_id in faces.image_ids]
    assert source.unlisted == []
    for index, image_id in enumerate(faces.image_ids[:3]):
        image, labels = drawn_face(7, index)
        np.testing.assert_array_equal(faces.attributes[index], labels)
        assert source.load(image_id).tobytes() == image.tobytes()
    longer = DrawnSource(count=20, seed=7).faces
    np.testing.assert_array_equal(longer.attributes[:12], faces.attributes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("smiling", "'Smiling'"), ("SMILING", "'Smiling'"), ("Eyeglases", "'Eyeglasses'")],
)
def test_attribute_index(name: str, hint: str) -> None:
    assert attribute_index(ATTRIBUTE_NAMES, "Smiling") == 31
    with pytest.raises(UserError, match=f"'{name}' among the 40 known: did you mean {hint}"):
        attribute_index(ATTRIBUTE_NAMES, name)
    with pytest.raises(UserError, match="among the 40 known: the first is '5_o_Clock_Shadow'"):
        attribute_index(ATTRIBUTE_NAMES, "zzzzqqqq")


def test_a_mistake_is_one_line_whatever_it_quotes(tmp_path):
    (tmp_path / "table").write_text("1.jpg 0\n2.jpg x\u2028y\x1cz\n".replace("\u2028", "\x85"))
    with pytest.raises(UserError) as refused:
        read_partition(str(tmp_path / "table"))
    assert len(str(refused.value).splitlines()) == 1


def test_a_row_count_of_very_many_digits_is_one_clear_line(tmp_path):
    (tmp_path / "table").write_text("9" * 5000 + "\nSmiling\n1.jpg 1\n")
    with pytest.raises(UserError, match=r"line 1: expected a row count .*, found '9{40}'"):
        read_label_table(str(tmp_path / "table"))
