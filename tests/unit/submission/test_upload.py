"""What would be sent of a folder is what Ray sends, and what cannot be sent is one line at once."""

import os
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from facevae.errors import UserError
from facevae.submission import upload as module
from facevae.submission.upload import Upload, look_at_upload


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of sources with files that are left out."""
    place = tmp_path / "sources"
    for name in ("jobs/train.py", "a/b/c.py", "runs/old", "private/x.yaml", ".venv/big"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    (place / ".gitignore").write_text("runs/\n")
    (place / ".rayignore").write_text(".venv/\n/left_out*\n")
    (place / "private" / ".rayignore").write_text("*.yaml\n")
    return place


def sent_by_ray(folder: Path, upload: Upload, target: Path) -> list[str]:
    """The names in the archive that Ray makes."""
    excludes = [*get_runtime_env_default_excludes(), *upload.excludes]
    get_uri_for_directory(str(folder), include_gitignore=True, excludes=excludes)
    create_package(str(folder), target, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(target) as archive:
        return sorted(name.rstrip("/") for name in archive.namelist())


def files(folder: Path, upload: Upload) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in upload.paths if p.is_file())


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def linked_pipe(path: Path) -> None:
    outside = next(each for each in path.parents if each.name == "sources").parent / "elsewhere"
    os.mkfifo(outside)
    path.symlink_to(outside)


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(module.LARGEST)


FAULTS = {
    pipe: "is a named pipe, which cannot be sent",
    listening: "is a socket, which cannot be sent",
    device: "is a device, which cannot be sent",
    linked_pipe: "is a named pipe, which cannot be sent",
    large: "has 100 MiB, where 100 MiB are sent with a job at most",
}


def test_it_is_what_ray_sends(folder, tmp_path):
    upload = look_at_upload(folder)
    expected = [".gitignore", ".rayignore", "a/b/c.py", "jobs/train.py", "private/.rayignore"]
    assert files(folder, upload) == expected
    assert sent_by_ray(folder, upload, tmp_path / "sent.zip") == expected


@pytest.mark.parametrize("make", FAULTS)
@pytest.mark.parametrize("place", ["odd", "a/b/odd"])
def test_what_cannot_be_sent_is_one_quick_line(folder, make: Callable[[Path], None], place):
    make(folder / place)
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        look_at_upload(folder)
    assert time.monotonic() - start < 2
    assert one_line(error) == (
        f"{folder / place} {FAULTS[make]}: name it in {folder}/.rayignore, or move it out of the "
        "folder"
    )


@pytest.mark.parametrize("make", FAULTS)
@pytest.mark.parametrize("place", ["left_out", "runs/odd", ".venv/odd", "private/odd.yaml"])
def test_what_is_left_out_may_be_anything(folder, make: Callable[[Path], None], place, tmp_path):
    make(folder / place)
    upload = look_at_upload(folder)
    assert folder / place not in upload.paths
    assert place not in sent_by_ray(folder, upload, tmp_path / "sent.zip")


@pytest.mark.parametrize(
    ("links", "leading_back"),
    [
        ({"self": "."}, ["/self"]),
        ({"a/up": ".."}, ["/a/up"]),
        ({"a/b/up [1]": "../../"}, [r"/a/b/up\ \[1\]"]),
        ({"a/over": "../.."}, ["/a/over"]),
        ({"a/to_jobs": "../jobs", "jobs/to_a": "../a"}, ["/a/to_jobs/to_a", "/jobs/to_a/to_jobs"]),
        ({"round": "round"}, []),
        ({"nowhere": "not there"}, []),
        ({"left_out": "."}, []),
    ],
)
def test_links_that_lead_back_are_not_followed(folder, tmp_path, links, leading_back):
    for name, target in links.items():
        (folder / name).symlink_to(target)
    upload = look_at_upload(folder)
    assert sorted(upload.excludes) == leading_back
    sent = sent_by_ray(folder, upload, tmp_path / "sent.zip")
    assert sent == files(folder, upload)
    assert len(sent) <= 8


def test_links_elsewhere_are_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "shared.yaml").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    upload = look_at_upload(folder)
    assert upload.excludes == ()
    assert "linked/shared.yaml" in sent_by_ray(folder, upload, tmp_path / "sent.zip")


def test_many_files_that_are_too_large_together_are_one_line(folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 3 * 2**20)
    for number in range(4):
        (folder / "a" / f"{number}.bin").write_bytes(bytes(2**20))
    with pytest.raises(UserError, match=r"more than the 3 MiB .* 3 MiB of it in a: name") as error:
        look_at_upload(folder)
    assert str(folder / ".rayignore") in one_line(error)
    (folder / ".rayignore").write_text(".venv/\n*.bin\n")
    assert folder / "a/0.bin" not in look_at_upload(folder).paths


def test_a_file_that_may_not_be_read_is_one_line(folder, monkeypatch):
    secret = str(folder / "a" / "b" / "c.py")
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) != secret and allowed(path, mode)
    )
    with pytest.raises(UserError, match="cannot be read: name it in") as error:
        look_at_upload(folder)
    assert one_line(error).startswith(secret)


def test_a_folder_that_may_not_be_read_is_one_line(folder, monkeypatch):
    def refuse(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="cannot be read: name it in") as error:
        look_at_upload(folder)
    assert one_line(error).startswith(str(folder))


def test_a_name_that_is_not_utf8_is_one_line(folder):
    (folder / os.fsdecode(b"\xff.py")).touch()
    with pytest.raises(UserError, match=r"udcff\.py' has a name that is not UTF-8") as error:
        look_at_upload(folder)
    one_line(error)
