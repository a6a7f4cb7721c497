"""Files that are no data, and what is said of them."""

import hashlib
from pathlib import Path

import pytest

from facevae.data import downloads
from facevae.data.downloads import kind_of_content, name_broken_download, no_data
from facevae.data.sources.make_source import open_images
from facevae.data.sources.tables import read_label_table, read_partition
from facevae.errors import UserError

PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "what"), [(PAGE, "a web page"), (POINTER, "a Git LFS pointer")]
)
@pytest.mark.parametrize("name", ["img_align_celeba.zip", "faces.parquet", "faces.tar", "faces"])
def test_what_is_no_data_is_named_whatever_it_is_called(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is {what}"):
        open_images(str(tmp_path / name)).names()
    (tmp_path / "list.txt").write_bytes(content)
    for read in (read_label_table, read_partition):
        with pytest.raises(UserError, match=rf"list\.txt is {what}"):
            read(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xd8\xff\xe0", bytes(600)])
def test_anything_else_is_nothing_known(content: bytes) -> None:
    assert no_data(content) is None
    assert kind_of_content(content) is None


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet", "x"])
def test_what_is_not_there_says_where_celeba_is_and_what_its_licence_allows(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError) as error:
        open_images(str(tmp_path / name)).names()
    for word in ("non-commercial research only", "CelebA.html", "Kaggle", "Hugging Face"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_celeba_that_cannot_be_read_is_compared_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "img_align_celeba.zip"
    path.write_bytes(b"PK\x03\x04 the first half of it")
    with pytest.raises(UserError, match=r"is cut short.*MD5 is not 00d2c5bc"):
        open_images(str(path)).names()
    whole = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(downloads.CELEBA_MD5, path.name, whole)
    with pytest.raises(UserError, match=r"it again$"), name_broken_download(str(path)):
        raise UserError("download it again")
    path = tmp_path / "own.zip"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"download it again$"):
        open_images(str(path)).names()
