"""Storage: files appear whole or not at all, wherever they are."""

import errno
import hashlib
import sys
from pathlib import Path

import fsspec
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
@pytest.mark.parametrize("code", storage.WRITE_ERRORS)
def test_a_failure_to_write_is_one_clear_line_and_leaves_nothing(tmp_path, kind, code):
    target = tmp_path / "target"
    with pytest.raises(UserError, match=storage.WRITE_ERRORS[code]) as failed, kind(str(target)):
        raise OSError(code, "reason")
    assert str(target) in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_an_error_that_is_not_of_writing_keeps_its_kind(tmp_path, kind):
    with pytest.raises(ConnectionResetError), kind(str(tmp_path / "target")):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_nothing_is_seen_under_the_name_before_the_end(tmp_path, kind):
    target = tmp_path / "target"
    with kind(str(target)) as path:
        assert path.parent == tmp_path  # so that the rename stays on one file system
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("one", "two"):
        with storage.atomic_folder(str(tmp_path / "folder")) as path:
            (path / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert len(list(tmp_path.iterdir())) == 1


def fill(uri: str) -> None:
    with storage.atomic_folder(uri) as path:
        (path / "inner").write_text("new")


@pytest.mark.parametrize("name", ["file", "file/folder", "file/folder/deeper"])
@pytest.mark.parametrize("make", [storage.make_folder, fill])
def test_a_file_in_the_way_of_a_folder_is_one_clear_line_and_stays(tmp_path, make, name):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="a file is in the way"):
        make(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_the_way_of_a_file_is_one_clear_line_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_text("precious")
    with pytest.raises(UserError, match="a folder is in the way"):
        storage.write_json(str(tmp_path / "folder"), 1)
    assert (tmp_path / "folder" / "inner").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def bucket():
    """An empty folder of an object store."""
    store = fsspec.filesystem("memory")
    store.mkdirs("/bucket", exist_ok=True)
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_a_folder_of_an_object_store_is_replaced_as_a_whole(bucket):
    for content in ("one", "two"):
        with storage.atomic_folder(f"{bucket}/folder") as path:
            (path / "inner").mkdir()
            (path / "inner" / content).write_text(content)
            (path / "both").write_text(content)
    with storage.local_copy(f"{bucket}/folder") as path:
        held = {
            p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()
        }
    assert held == {"inner/two": "two", "both": "two"}
    assert not path.exists()


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_a_failure_leaves_an_object_store_as_it_was(bucket, kind):
    with pytest.raises(ZeroDivisionError), kind(f"{bucket}/target") as path:
        (path / "inner" if path.is_dir() else path).write_text(f"{1 / 0}")
    assert not path.exists()
    assert not storage.exists(f"{bucket}/target")


def test_a_local_copy_of_a_local_file_is_the_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with storage.local_copy(str(tmp_path / "file")) as path:
        assert path == tmp_path / "file"
    assert path.exists()


def test_object_stores_work_alike(bucket):
    storage.write_json(f"{bucket}/a/value.json", {"x": [1, 2]})
    assert storage.read_json(f"{bucket}/a/value.json") == {"x": [1, 2]}
    with storage.atomic_folder(f"{bucket}/model") as path:
        (path / "weights").write_bytes(b"w")
    with storage.local_copy(f"{bucket}/model/weights") as path:
        assert path.read_bytes() == b"w"
    assert storage.exists(f"{bucket}/model/weights")
    assert not storage.exists(f"{bucket}/model/other")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_what_is_not_json_is_one_clear_line(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a JSON file"):
        storage.read_json(str(path))


@pytest.mark.parametrize("name", ["none.json", "folder", "file/inner"])
def test_json_that_is_not_there_is_one_clear_line(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("1")
    with pytest.raises(UserError, match="no such file"):
        storage.read_json(str(tmp_path / name))


def test_digests(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert storage.file_digest(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert storage.value_digest({"a": 1, "b": 2}) == storage.value_digest({"b": 2, "a": 1})
    assert storage.value_digest([1]) != storage.value_digest([2])


@pytest.mark.parametrize("uri", ["s3://bucket/file", "nowhere://file"])
@pytest.mark.parametrize("use", [storage.exists, storage.make_folder, storage.read_json])
def test_a_storage_that_cannot_be_used_is_one_clear_line(monkeypatch, use, uri):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if not installed
    known = sys.modules["fsspec.registry"]._registry  # remembers what was imported
    monkeypatch.delitem(known, "s3", raising=False)
    with pytest.raises(UserError, match=f"cannot reach {uri}: (Install s3fs|Protocol not known)"):
        use(uri)


def test_a_folder_comes_back_if_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with storage.atomic_folder(str(folder)) as path:
        (path / "one").write_text("one")
    rename = Path.replace
    renames = iter([rename, full_disk, rename])
    monkeypatch.setattr(Path, "replace", lambda *paths: next(renames)(*paths))
    with pytest.raises(UserError, match="the disk is full"), storage.atomic_folder(str(folder)):
        pass
    assert (folder / "one").read_text() == "one"
    assert list(tmp_path.iterdir()) == [folder]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    storage.tidy(str(tmp_path / "not there"))
    (tmp_path / ".a.parquet.x7").write_bytes(b"half")
    (tmp_path / ".b.x8").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"whole")
    storage.tidy(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
