"""Folders of images, and how they and their tables are brought together."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facevae.data.images import BadImageError
from facevae.data.sources import hash_split
from facevae.data.sources.folder import ImageFolderSource, list_images
from facevae.errors import UserError

CELEBA = "3\nSmiling Male\na.jpg  1 -1\nb.jpg -1 -1\nc.jpg -1  1\n"
KAGGLE = "image_id,Smiling,Male\na.jpg,1,-1\nb.jpg,-1,-1\nc.jpg,-1,1\n"
LABELS = [[1, -1], [-1, -1], [-1, 1]]


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
    assert source.unlisted == [("1/b.png", "image without partition row")]

    source = ImageFolderSource(folder, labels, identities=people)
    assert source.faces.image_ids == ["1/a.png", "1/b.png"]
    assert source.faces.splits == [hash_split("5"), hash_split("6")]
    assert source.unlisted == [("1/c.png", "image without identity row")]

    only_c = write("c.jpg 0\n", "partition.txt")
    with pytest.raises(UserError, match=r"no image in .* has a row in all tables"):
        _ = ImageFolderSource(folder, labels, only_c, people).faces


def test_no_person_is_in_two_splits(write: Callable[..., str], images: Callable[..., str]) -> None:
    names = [f"{i}.png" for i in range(90)]
    labels = write("90\nA\n" + "".join(f"{name} 1\n" for name in names))
    people = write("".join(f"{name} {i % 30}\n" for i, name in enumerate(names)), "people.txt")
    faces = ImageFolderSource(images(*names), labels, identities=people).faces
    people_of = [int(name.removesuffix(".png")) % 30 for name in faces.image_ids]
    assert len(set(zip(people_of, faces.splits, strict=True))) == 30
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


# --- kinds of images -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    ["webp", "tiff", "TIF", "jfif", "JPEG", "avif", "AVIF", "jp2", "JP2", "j2k", "ppm", "PGM"],
)
def test_every_kind_that_pillow_reads_is_found_and_read(
    write: Callable[..., str], images: Callable[..., str], ending: str
) -> None:
    name = f"IMG_1.{ending}"
    source = ImageFolderSource(images(name), write(f"1\nA\n{name} 1\n"))
    assert source.faces.image_ids == [name]
    assert source.unlisted == []
    assert np.asarray(source.load(name)).min() > 250


@pytest.mark.parametrize("ending", ["JXL", "jxl", "cr2", "DNG", "psd", "tga"])
@pytest.mark.parametrize("label", ["IMG_2.{}", "IMG_2", "IMG_2.jpg", "1/IMG_2.{}"])
def test_a_kind_that_is_not_read_is_told_with_its_file(
    write: Callable[..., str], images: Callable[..., str], ending: str, label: str
) -> None:
    folder = images("a.jpg")
    (Path(folder) / "1").mkdir()
    (Path(folder) / "1" / f"IMG_2.{ending}").write_bytes(b"some bytes")
    row = label.format(ending)
    source = ImageFolderSource(folder, write(f"3\nA\na.jpg 1\n{row} 1\nc.jpg -1\n"))
    assert source.faces.image_ids == ["a.jpg"]
    assert source.unlisted == [
        (
            f"1/IMG_2.{ending}",
            f"{ending.upper()} is not read: convert the file to JPEG or PNG",
        ),
        ("c.jpg", "label row without image"),
    ]


def test_a_converted_image_goes_by_the_label_of_the_old_one(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    folder = images("IMG_1.jpg", "IMG_2.png")
    (Path(folder) / "IMG_1.JXL").touch()
    source = ImageFolderSource(folder, write("2\nA\nIMG_1.JXL 1\nIMG_2.CR2 -1\n"))
    assert source.faces.attributes.tolist() == [[1], [-1]]
    assert source.unlisted == []


def test_a_file_beside_the_images_that_no_label_names_is_nothing_to_tell_of(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    folder = images("a.jpg")
    for name in ("b.JXL", "c.txt", ".d.jxl"):
        (Path(folder) / name).touch()
    source = ImageFolderSource(folder, write("3\nA\na.jpg 1\nc.jpg 1\nd.jpg 1\n"))
    assert source.unlisted == [(name, "label row without image") for name in ("c.jpg", "d.jpg")]


@pytest.mark.parametrize("others", [(), ("logo.png",)])
def test_a_folder_whose_images_are_all_of_such_kinds_is_one_line(
    write: Callable[..., str], images: Callable[..., str], others: tuple[str, ...], tmp_path: Path
) -> None:
    images(*others)
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    (folder / "IMG_1.JXL").touch()
    with pytest.raises(UserError, match=r"there is 'IMG_1\.JXL', but JXL is not read") as error:
        _ = ImageFolderSource(str(folder), write("1\nA\nIMG_1.JXL 1\n")).faces
    assert "convert the file to JPEG or PNG" in one_line(error)


# --- pickles and descriptions ---------------------------------------------------------------------


def test_a_pickle_holds_settings_only(
    write: Callable[..., str], images: Callable[..., str]
) -> None:
    source = ImageFolderSource(images("a.jpg"), write(CELEBA))
    assert source.faces.image_ids
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    received = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert received == source
    assert received.__dict__.keys() == {
        "images", "attributes", "partition", "identities", "label_encoding",
    }  # fmt: skip
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
