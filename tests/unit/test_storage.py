"""Storage: files appear whole or not at all, wherever they are."""

import errno
import hashlib

import pytest

from facevae import storage
from facevae.errors import UserError


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, kind):
    target = tmp_path / "target"
    with kind(str(target)) as path:
        (path / "inner" if path.is_dir() else path).write_text("old")
    with pytest.raises(ZeroDivisionError), kind(str(target)) as path:
        (path / "inner" if path.is_dir() else path).write_text(f"new {1 / 0}")
    assert (target / "inner" if target.is_dir() else target).read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, kind):
    with pytest.raises(UserError, match="the disk is full"), kind(str(tmp_path / "target")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("one", "two"):
        with storage.atomic_folder(str(tmp_path / "folder")) as path:
            (path / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_of_a_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        storage.make_folder(str(tmp_path / "file" / "folder"))


def test_object_stores_work_alike():
    storage.write_json("memory://bucket/a/value.json", {"x": [1, 2]})
    assert storage.read_json("memory://bucket/a/value.json") == {"x": [1, 2]}
    with storage.atomic_folder("memory://bucket/model") as path:
        (path / "weights").write_bytes(b"w")
    with storage.local_copy("memory://bucket/model/weights") as path:
        assert path.read_bytes() == b"w"
    assert storage.exists("memory://bucket/model/weights")
    assert not storage.exists("memory://bucket/model/other")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_what_is_not_json_is_one_clear_line(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a JSON file"):
        storage.read_json(str(path))
    with pytest.raises(UserError, match="no such file"):
        storage.read_json(str(tmp_path / "none.json"))


def test_digests(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert storage.file_digest(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert storage.value_digest({"a": 1, "b": 2}) == storage.value_digest({"b": 2, "a": 1})
    assert storage.value_digest([1]) != storage.value_digest([2])
