"""Zip and tar archives that nobody should trust."""

import io
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from facevae.data.images import BadImageError
from facevae.data.sources import archive
from facevae.data.sources.archive import TarFiles, ZipFiles
from facevae.data.sources.image_files import ImageFiles
from facevae.data.sources.make_source import open_images
from facevae.errors import UserError


def jpeg(colour: str = "white") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def make_zip(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return str(path)


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


KINDS = [(make_zip, ZipFiles, "x.zip"), (make_tar, TarFiles, "x.tar")]


def refusal(files: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        files()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("make", "kind", "name"), KINDS)
class TestBoth:
    """What holds for zip and tar alike."""

    def test_ids_are_paths_without_the_folders_that_all_images_are_in(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        members = {
            "b/c/2.JPG": b"2", "b/c/d/1.png": b"1", "./b/c/3.jxl": b"", "a.txt": b"x",
            "b/.hidden/4.jpg": b"", "__MACOSX/b/._2.JPG": b"",
        }  # fmt: skip
        files = kind(make(tmp_path / name, members))
        assert files.names() == ["2.JPG", "d/1.png"]
        assert files.unread() == ["3.jxl"]
        assert [files.read(each) for each in files.names()] == [b"2", b"1"]
        with pytest.raises(FileNotFoundError):
            files.read("5.jpg")

    def test_a_name_that_leads_outside_is_one_line(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        for outside in ("../a.jpg", "x/../../a.jpg", "/etc/a.jpg", "C:\\a.jpg", "..\\a.txt"):
            files = kind(make(tmp_path / name, {"b.jpg": jpeg(), outside: jpeg()}))
            assert "leads out of the folder" in refusal(files.names)
            (tmp_path / name).unlink()
        assert not list(tmp_path.iterdir())

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_members_of_one_name_are_one_line(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        files = kind(make(tmp_path / name, {"b/a.jpg": b"1", "b//a.jpg": b"2"}))
        assert "twice" in refusal(files.names)

    def test_an_archive_without_images_says_what_was_expected(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        assert "no images in" in refusal(kind(make(tmp_path / name, {"a.txt": b"1"})).names)
        (tmp_path / name).unlink()
        files = kind(make(tmp_path / name, {"a/b.cr2": b"1"}))
        assert "there is 'a/b.cr2', but CR2 is not read" in refusal(files.names)

    def test_a_member_that_is_too_large_is_one_bad_image(
        self,
        tmp_path: Path,
        make: Callable[..., str],
        kind: type[ImageFiles],
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        files = kind(make(tmp_path / name, {"a.bmp": bytes(5_000), "b.jpg": jpeg()}))
        monkeypatch.setattr("facevae.data.sources.image_files.MAX_FILE_BYTES", 4_000)
        with pytest.raises(BadImageError, match=r"^too large: a file of 5,000 bytes$"):
            files.read("a.bmp")
        assert files.read("b.jpg") == jpeg()

    def test_an_archive_cut_short_is_named(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        path = Path(make(tmp_path / name, {f"{i}.jpg": jpeg() * 9 for i in range(9)}))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        message = refusal(open_images(str(path)).names)
        assert "is cut short" in message
        assert "download it again" in message

    def test_a_pickle_is_small_and_reads_on(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        files = kind(make(tmp_path / name, {f"{i:06d}.jpg": jpeg() for i in range(300)}))
        assert len(files.names()) == 300
        sent = pickle.dumps(files)
        assert len(sent) < 500
        assert pickle.loads(sent).read("000007.jpg") == jpeg()  # noqa: S301 - our own bytes

    def test_a_changed_archive_is_read_anew_and_described_otherwise(
        self, tmp_path: Path, make: Callable[..., str], kind: type[ImageFiles], name: str
    ) -> None:
        files = kind(make(tmp_path / name, {"a.jpg": b"1"}))
        before = files.describe()
        make(tmp_path / name, {"a.jpg": b"22", "b.jpg": b"3"})
        assert files.read("a.jpg") == b"22"
        assert files.describe() != before


def test_the_table_of_contents_is_read_once_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "x.zip", {f"{i}.jpg": jpeg() for i in range(5)})
    opened = []
    real = archive._zip_file
    monkeypatch.setattr(archive, "_zip_file", lambda *a: opened.append(a) or real(*a))
    for _ in range(3):  # as tasks do, each with its own copy
        files = pickle.loads(pickle.dumps(ZipFiles(path)))  # noqa: S301 - our own bytes
        assert [files.read(name) for name in files.names()] == [jpeg()] * 5
    assert len(opened) == 1


def test_a_zip_bomb_is_one_line_and_unpacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "x.zip", {f"{i}.bmp": bytes(2_000_000) for i in range(5)})
    assert ZipFiles(path).names()  # a few flat pictures are no bomb
    monkeypatch.setattr(archive, "BOMB_BYTES", 5_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    other = shutil.copy(path, tmp_path / "y.zip")
    message = refusal(ZipFiles(str(other)).names)
    assert "a zip bomb" in message
    assert "10,000,000" in message


def test_a_member_that_unpacks_to_more_than_it_says_takes_no_more_memory(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "x.zip", {"a.bmp": bytes(50_000_000)}))
    data = bytearray(path.read_bytes())
    size = struct.pack("<I", 50_000_000)
    while (at := data.find(size)) >= 0:  # in both headers
        data[at : at + 4] = struct.pack("<I", 1_000)
    path.write_bytes(data)
    files = ZipFiles(str(path))
    assert files.names() == ["a.bmp"]
    tracemalloc.start()
    with pytest.raises(BadImageError, match="damaged in the archive"):
        files.read("a.bmp")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_damaged_member_is_one_bad_image(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "x.zip", {"a.jpg": jpeg(), "b.jpg": jpeg()}))
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    files = ZipFiles(str(path))
    with pytest.raises(BadImageError, match="damaged in the archive"):
        files.read("a.jpg")
    assert files.read("b.jpg") == jpeg()


def test_a_compression_that_cannot_be_bounded_is_one_bad_image(tmp_path: Path) -> None:
    files = ZipFiles(make_zip(tmp_path / "x.zip", {"a.jpg": jpeg()}, zipfile.ZIP_BZIP2))
    with pytest.raises(BadImageError, match="zip it again with deflate"):
        files.read("a.jpg")


def test_a_password_and_a_link_are_one_line(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "x.zip", {"a.jpg": jpeg()}))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "has a password" in refusal(ZipFiles(str(path)).names)
    info = zipfile.ZipInfo("a.jpg")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert "is a link" in refusal(ZipFiles(str(tmp_path / "y.zip")).names)
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "is a link" in refusal(TarFiles(str(tmp_path / "y.tar")).names)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar.xz", "w:xz"), ("odd.tar", "w:bz2")],
)
def test_a_tar_that_is_compressed_as_a_whole_says_how_to_unpack_it(
    tmp_path: Path, name: str, mode: str
) -> None:
    files = open_images(make_tar(tmp_path / name, {"a.jpg": jpeg()}, mode))
    message = refusal(files.names)
    assert "is compressed as a whole" in message
    assert f"tar -xf {name}" in message


def test_a_tar_in_an_object_store_is_refused() -> None:
    assert "has no table of contents" in refusal(open_images("s3://bucket/x.tar").names)
