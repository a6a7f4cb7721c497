"""What the names of images say."""

from pathlib import Path

import pytest
from PIL import Image

from facevae.data.sources import hash_split
from facevae.data.sources.file_names import UTKFACE_NAMES
from facevae.data.sources.folder import FolderFiles
from facevae.data.sources.image_source import ImageSource
from facevae.errors import UserError


def folder(tmp_path: Path, *names: str) -> FolderFiles:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / name, "JPEG")
    return FolderFiles(str(tmp_path))


def test_utkface_s_names_are_labels(tmp_path: Path) -> None:
    files = folder(
        tmp_path,
        "part1/17_0_0_20170109142408075.jpg",
        "part1/61_1_2_20170109142408075.jpg.chip.jpg",
        "part2/41_1_4_20170109142408075.jpg",
        "39_1_20170109142408075.jpg",  # as a few of UTKFace are: the race is missing
    )
    source = ImageSource(files, file_names="utkface")
    labels = [
        {name for name, label in zip(UTKFACE_NAMES, row, strict=True) if label == 1}
        for row in source.faces.attributes
    ]
    assert source.attribute_names == UTKFACE_NAMES
    assert source.faces.image_ids == files.names()[1:]
    assert labels == [
        {"Male", "Under_18", "White"},
        {"Over_40", "Over_60", "Asian"},
        {"Over_40", "Other_Race"},
    ]
    assert set(source.faces.attributes.ravel()) == {-1, 1}
    ((name, reason),) = source.unlisted
    assert name == "39_1_20170109142408075.jpg"
    assert "does not say age_gender_race_date" in reason


def test_lfw_s_folders_are_persons_and_no_person_is_in_two_splits(tmp_path: Path) -> None:
    people = ("Ann_Lee", "George_W_Bush")
    files = folder(tmp_path, *(f"{name}/{name}_{n:04d}.jpg" for name in people for n in range(4)))
    (tmp_path / "faces.csv").write_text(
        "image_id,Male\n" + "".join(f"George_W_Bush_{n:04d},1\n" for n in range(4))
        + "Ann_Lee/Ann_Lee_0000.jpg,-1\n"
    )  # fmt: skip
    source = ImageSource(files, str(tmp_path / "faces.csv"), file_names="lfw")
    by_person = dict(zip(source.faces.image_ids, source.faces.splits, strict=True))
    assert len(by_person) == 5
    assert all(split == hash_split(name.split("/")[0]) for name, split in by_person.items())
    folder(tmp_path, "alone.jpg")
    source = ImageSource(FolderFiles(str(tmp_path)), file_names="lfw")
    assert source.unlisted == [("alone.jpg", "the image is in no person's folder")]


@pytest.mark.parametrize("names", ["utkface", "lfw"])
def test_names_that_say_nothing_are_one_line(tmp_path: Path, names: str) -> None:
    source = ImageSource(folder(tmp_path, "a.jpg"), file_names=names)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"leave --file_names {names} out"):
        _ = source.faces


def test_images_without_labels_are_faces_without_attributes(tmp_path: Path) -> None:
    source = ImageSource(folder(tmp_path, "b.jpg", "a/a.jpg"))
    assert source.attribute_names == ()
    assert source.faces.image_ids == ["a/a.jpg", "b.jpg"]
    assert source.faces.attributes.shape == (2, 0)
    assert source.unlisted == []
    assert source.describe()["attributes"] is None
