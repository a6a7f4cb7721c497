"""Storage: files appear whole or not at all, wherever they are."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from facevae.errors import UserError
from facevae.runs import storage


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


def test_files_of_a_folder_are_replaced_and_others_stay(tmp_path):
    mine = {"README.md": "mine", ".git/HEAD": "mine", "inner/notes": "mine"}
    plant(tmp_path / "folder", mine)
    for content in ("one", "two"):
        with storage.atomic_folder(str(tmp_path / "folder"), last="last") as path:
            plant(path, {"last": content, "inner/file": content})
    assert contents(tmp_path / "folder") == mine | {"last": "two", "inner/file": "two"}
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


@pytest.mark.parametrize(
    "spelling",
    [
        *("{}/data/x", "{}/data/x/", "{}//data/./x", "/{}/data/x", "{}/data/../data/x", "data/x"),
        *("./data/x", "data/x/.", "nowhere/../data/x", "data/link/../x", "~/data/x"),
        *("file://{}/data/x", "file://{}/data/x/", "file://localhost{}/data/x", "file:{}/data/x"),
        *("file://data/x", "file://{}/data/up/../x"),
    ],
)
def test_a_local_place_has_one_spelling(tmp_path, monkeypatch, spelling):
    (tmp_path / "data" / "x" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to("x/deep/..//deep")
    (tmp_path / "data" / "up").symlink_to("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    same = storage.absolute(spelling.format(tmp_path))
    is_behind_a_link = spelling == "data/link/../x"  # the folder above `deep` is x itself
    assert same == str(tmp_path / "data" / "x") + ("/x" if is_behind_a_link else "")
    assert storage.absolute(same) == same


@pytest.mark.parametrize(
    ("spelling", "one"),
    [
        ("s3://bucket/x/", "s3://bucket/x"),
        ("s3a://bucket/x//", "s3://bucket/x"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("hf://datasets/a/b/", "hf://datasets/a/b"),
        ("s3://bucket/~/a/../x", "s3://bucket/~/a/../x"),  # a key may be just that
    ],
)
def test_a_place_in_an_object_store_has_one_spelling(spelling, one):
    assert storage.absolute(spelling) == one


def test_a_link_keeps_its_name(tmp_path):
    (tmp_path / "version_3").mkdir()
    (tmp_path / "newest").symlink_to("version_3")
    assert storage.absolute(f"{tmp_path}/newest/x/..") == f"{tmp_path}/newest"


def test_the_home_of_nobody_is_a_name_and_that_of_a_user_without_one_is_one_line(monkeypatch):
    assert storage.absolute("~no_such_user/x") == str(Path.cwd() / "~no_such_user" / "x")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # Kubernetes' runAsUser
    with pytest.raises(UserError, match="~/x is in a home, and this user has none: set HOME"):
        storage.absolute("~/x")
    assert storage.absolute("/x") == "/x"


def test_a_name_that_is_no_utf_8_is_one_line():
    with pytest.raises(UserError, match=r"'runs/\\udcff' is not in UTF-8"):
        storage.absolute("runs/\udcff")


LEGAL = ["my%20faces", "100%", "who?", "a::b", "zip::a", "a#b", "a;b", "a&b=c", "[x]*", "a b", "ü"]


@pytest.mark.parametrize("name", LEGAL)
def test_any_legal_name_of_a_local_folder_works(tmp_path, name):
    folder = f"{tmp_path}/{name}/run"
    storage.make_folder(folder)
    storage.write_json(f"{folder}/value.json", 1)
    with storage.atomic_folder(f"{folder}/model") as path:
        (path / name).write_text("weights")
    assert storage.read_json(f"{folder}/value.json") == 1
    assert storage.names(folder) == ["model", "value.json"]
    assert contents(tmp_path) == {
        f"{name}/run/value.json": "1\n",
        f"{name}/run/model/{name}": "weights",
    }
    storage.remove_file(f"{folder}/value.json")
    assert storage.remove_own_folder(f"{folder}/model", [name])
    assert storage.names(folder) == []


@pytest.fixture
def bucket():
    """An empty folder of an object store."""
    store = fsspec.filesystem("memory")
    store.mkdirs("/bucket", exist_ok=True)
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_files_of_a_folder_of_an_object_store_are_replaced_and_others_stay(bucket):
    for content in ("one", "two"):
        with storage.atomic_folder(f"{bucket}/folder") as path:
            (path / "inner").mkdir()
            (path / "inner" / content).write_text(content)
            (path / "both").write_text(content)
    with storage.local_copy(f"{bucket}/folder") as path:
        held = {
            p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()
        }
    assert held == {"inner/one": "one", "inner/two": "two", "both": "two"}
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


def test_a_folder_whose_files_cannot_all_be_replaced_lacks_its_last_and_no_foreign_one(
    tmp_path, monkeypatch
):
    folder = tmp_path / "folder"
    plant(folder, {"one": "1", "two": "2", "notes.txt": "mine"})
    rename = Path.replace
    renames = iter([rename, full_disk])
    monkeypatch.setattr(Path, "replace", lambda *paths: next(renames)(*paths))
    with (
        pytest.raises(UserError, match="the disk is full"),
        storage.atomic_folder(str(folder), last="one") as path,
    ):
        plant(path, {"one": "new 1", "two": "new 2", "zero": "new 0"})
    assert contents(folder) == {"two": "new 2", "notes.txt": "mine"}
    assert list(tmp_path.iterdir()) == [folder]


def plant(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


FOREIGN = {
    **{".git/HEAD": "ref", ".gitignore": "*", ".dvc/config": "x", "notes.partial": "x"},
    **{".a.parquet.abcdefgh": "by rsync", ".a.parquet.abcdefgh.partial.txt": "x"},
    **{".a.parquet.ABCDEFGH.partial": "x", ".a.parquet.short.partial": "x"},
    **{".b.parquet.abcdefgh.partial": "of a name that is not ours", "sub/.a.parquet.a": "x"},
    ".a.parquet.folder00.partial/inner": "a folder where we write files",
}
KILLED_WRITER = Path(__file__).parents[2] / "drivers" / "killed_writer.py"


def leave_scratch(kind: str, target: Path) -> None:
    """What a killed writer leaves behind."""
    process = subprocess.run([sys.executable, KILLED_WRITER, kind, target], check=False)
    assert process.returncode == -9


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    storage.remove_partial_writes(str(tmp_path / "not there"), r"a\.parquet")
    folder = tmp_path / "data"
    plant(folder, FOREIGN | {"a.parquet": "whole"})
    (folder / ".a.parquet.linked00.partial").symlink_to(folder / ".gitignore")
    before = contents(folder)
    leave_scratch("atomic_file", folder / "a.parquet")
    assert len(contents(folder)) == len(before) + 1
    storage.remove_partial_writes(str(folder), r"a\.parquet")
    assert contents(folder) == before


def test_what_a_killed_writer_of_a_folder_left_is_removed_and_nothing_else(tmp_path):
    plant(tmp_path, FOREIGN | {"step_1/inner": "whole", ".step_1.mine0000.partial/mine": "x"})
    plant(tmp_path, {".step_1.a0000000.partial": "a file where we write folders"})
    before = contents(tmp_path)
    leave_scratch("atomic_folder", tmp_path / "step_1")
    assert len(contents(tmp_path)) == len(before) + 1
    storage.remove_partial_writes(str(tmp_path), r"step_\d", ["inner", "model.json"])
    assert contents(tmp_path) == before


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")


def write_all(place: str, *names: str) -> None:
    for name in names:
        storage.write_json(f"{place}/{name}", name)


def test_partial_writes_are_never_on_an_object_store(bucket):
    write_all(bucket, ".a.parquet.abcdefgh.partial")
    storage.remove_partial_writes(bucket, r"a\.parquet")
    assert storage.names(bucket) == [".a.parquet.abcdefgh.partial"]


def test_a_folder_of_own_files_is_removed_and_one_with_others_is_left(place):
    assert storage.remove_own_folder(f"{place}/nothing", ["a", "b"])
    write_all(place, "own/b", "own/a", "other/a", "other/.hidden", "deep/a", "deep/b/inner")
    assert storage.remove_own_folder(f"{place}/own", ["a", "b", "c"])
    for name in ("other", "deep"):
        before = storage.names(f"{place}/{name}")
        assert not storage.remove_own_folder(f"{place}/{name}", ["a"])
        assert storage.names(f"{place}/{name}") == before
    assert storage.names(place) == ["deep", "other"]


def test_a_link_to_a_folder_of_own_files_is_left(tmp_path):
    plant(tmp_path, {"elsewhere/a": "moved to another disk"})
    (tmp_path / "own").symlink_to("elsewhere")
    assert not storage.remove_own_folder(str(tmp_path / "own"), ["a"])
    assert contents(tmp_path / "own") == {"a": "moved to another disk"}


def test_one_file_is_removed_and_no_folder(tmp_path):
    write_all(str(tmp_path), "file", "folder/inner")
    storage.remove_file(str(tmp_path / "file"))
    storage.remove_file(str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"directory|permitted"):
        storage.remove_file(str(tmp_path / "folder"))
    assert contents(tmp_path).keys() == {"folder/inner"}


def test_a_file_of_another_program_is_named_before_it_would_be_replaced(place):
    storage.refuse_foreign(f"{place}/nothing", ".*")
    write_all(place, "model/model.json", "model/README.md")
    storage.refuse_foreign(f"{place}/model", r"model|README\.txt")
    with pytest.raises(UserError, match=r"model/model\.json is not of this program.*move it"):
        storage.refuse_foreign(f"{place}/model", r"model\.(json|safetensors)")


KINDS_OF_FILES = KILLED_WRITER.with_name("kinds_of_files.py")


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002])
def test_the_umask_is_kept_for_every_file_and_folder(tmp_path, umask):
    folder = tmp_path / "run"
    subprocess.run([sys.executable, KINDS_OF_FILES, folder], check=True, umask=umask)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert sum(path.is_file() for path in modes) >= 7
    for path, mode in modes.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_the_umask_is_not_what_another_thread_sets_for_a_moment(tmp_path):
    before = os.umask(0)
    try:
        storage.write_json(str(tmp_path / "file.json"), {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o666 & ~before


def test_the_umask_is_found_where_proc_does_not_tell(monkeypatch):
    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert storage._umask() == storage.UMASK
