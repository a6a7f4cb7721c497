"""Files by URI (local path, s3://, gs://, hf://) through fsspec; every write is atomic.

A local write goes to a temporary name in the same folder and is renamed, so that a reader or a
killed program never sees half a file; object stores make a whole object visible at once anyway.
Addresses and keys of object stores come from the environment alone: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, ..., GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import psutil
import pyarrow
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from facevae.errors import UNREADABLE, UnreachableError, UserError

WRITE_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EACCES: "no permission to write there; choose another place",
    errno.EPERM: "no permission to write there; choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EEXIST: "a file is in the way of the folder; move it or choose another place",
    errno.ENOTDIR: "a file is in the way of the folder; move it or choose another place",
    errno.EISDIR: "a folder is in the way of the file; move it or choose another place",
}
"""what a failure to write means, and what to do, by errno"""

NETWORK_FILE_SYSTEMS = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "virtiofs", "fuse."),
    *("lustre", "gpfs", "ceph", "beegfs", "glusterfs", "weka", "wekafs", "pvfs2", "orangefs"),
)
"""file systems that several machines can see, as the mount table names them"""

BUCKETS = ("s3://", "s3a://", "gs://", "gcs://")
"""stores whose paths begin with a bucket"""
ALIASES = {"s3a": "s3", "gcs": "gs"}
"""other names of stores"""
FILE_SCHEME = re.compile("^file:(//localhost(?=/)|//|(?=/))")
"""what may stand before a local path: file:///path, file://localhost/path, file:/path"""

PARTIAL = ".partial"
"""what the name of a file or folder ends with while it is written, `.NAME.RANDOM.partial`"""


def _umask() -> int:
    """The permissions that the user withholds from new files."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE
        )
        if found:
            return int(found[1], 8)
    umask = os.umask(0o077)  # it cannot be read here without being set
    os.umask(umask)
    return umask


# Read once and early: MLflow sets it to 0 for a moment whenever it logs a file.
UMASK = _umask()


def is_local(uri: str) -> bool:
    """Whether the URI names a file of this machine."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The one spelling of a place, which no working directory changes: Ray moves its workers'.

    Links stay as they are: another machine may see the same name and another place behind it.

    Raises:
        UserError: it is no text in UTF-8, or it begins with `~` and there is no home.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {uri!r} is not in UTF-8: rename that file or folder") from error
    if not is_local(uri):
        scheme, _, path = uri.partition("://")
        return f"{ALIASES.get(scheme, scheme)}://{path.rstrip('/')}"
    return str(_without_dots(_expand_home(FILE_SCHEME.sub("", uri)).absolute()))


def _expand_home(path: str) -> Path:
    """The path with a home for its `~`; that of a user who is not known is a name, as in a shell.

    Raises:
        UserError: there is no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if path.partition("/")[0] == "~":
            raise UserError(f"{path} is in a home, and this user has none: set HOME") from error
        return Path(path)


def _without_dots(path: Path) -> Path:
    """An absolute path without `..`, which behind a link leads above the place it leads to."""
    place = Path("/")
    for name in path.parts[1:]:
        if name != "..":
            place /= name
        else:
            place = (place.resolve() if place.is_symlink() else place).parent
    return place


def join(uri: str, *names: str) -> str:
    """The URI of a file below a folder."""
    return "/".join([uri.rstrip("/"), *names])


def parent(uri: str) -> str:
    """The URI of the folder that holds a file."""
    return uri.rstrip("/").rpartition("/")[0]


def shared_by_machines(uri: str) -> bool:
    """Whether other machines see the same files: an object store, or a network file system."""
    return not is_local(uri) or file_system_type(uri).startswith(NETWORK_FILE_SYSTEMS)


def file_system_type(path: str) -> str:
    """What the mount table calls the file system of a local path, which need not exist yet."""
    place = Path(absolute(path)).resolve()
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[each] for each in (place, *place.parents) if each in mounts), "unknown")


def exists(uri: str) -> bool:
    """Whether a file or folder is there.

    Raises:
        UserError: no such kind of storage, its package is not installed, or it cannot be reached;
            as all here do.
    """
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        return bool(filesystem.exists(path))


def is_folder(uri: str) -> bool:
    """Whether there is a folder of that name."""
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        return bool(filesystem.isdir(path))


def names(uri: str) -> list[str]:
    """The names of the files and folders in a folder; none if there is no such folder."""
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        try:
            entries = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
    return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)


def files_below(uri: str) -> list[str]:
    """The sorted paths, from a folder on, of all files in it and below it; none if it is not there.

    For object stores: links of a disk are not followed.
    """
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        found = filesystem.find(path)
    prefix = path.strip("/") + "/"
    return sorted(file.strip("/").removeprefix(prefix) for file in found if file.strip("/") != path)


def version_of(uri: str) -> tuple[int, int] | None:
    """What changes when a local file or folder does; none: nothing is known of it."""
    if not is_local(uri):
        return None
    try:
        status = Path(absolute(uri)).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def refuse_foreign(uri: str, final: str) -> None:
    """Check that a folder that is new to this program holds nothing which it would replace.

    Args:
        uri: the folder, which need not exist.
        final: a regular expression of the names that are to be written there.

    Raises:
        UserError: it does; names it.
    """
    for name in names(uri):
        if re.fullmatch(final, name):
            raise UserError(
                f"{join(uri, name)} is not of this program, which would replace it: move it, or "
                "choose another --output"
            )


def partial_pattern(final: str) -> str:
    """A regular expression of what names that match another are called while they are written."""
    return rf"\.(?:{final})\.[a-z0-9_]{{8}}{re.escape(PARTIAL)}"


def remove_partial_writes(uri: str, final: str, files: Sequence[str] | None = None) -> None:
    """Remove from a folder what `atomic_file` or `atomic_folder` left there when it was killed.

    Nothing else is removed, whatever it is called: a folder may hold a user's own hidden files.
    Call only when no writer is alive. Object stores have no partial writes.

    Args:
        uri: the folder.
        final: a regular expression of the names that are written there.
        files: what `atomic_folder` puts into its folders there; none: it is `atomic_file` that
            writes there.
    """
    if not is_local(uri):
        return
    # The name that tempfile makes of `.NAME.`, eight characters and PARTIAL.
    partial = re.compile(partial_pattern(final))
    for name in filter(partial.fullmatch, names(uri)):
        place = join(uri, name)
        path = Path(filesystem_of(place)[1])
        if files is not None:
            remove_own_folder(place, files)
        elif path.is_file() and not path.is_symlink():
            path.unlink()


def remove_own_folder(uri: str, files: Sequence[str]) -> bool:
    """Remove a folder that holds nothing but files of these names, in this order.

    Returns:
        Whether it is gone; a folder that holds anything else, or a link to one, is left as it is.
    """
    filesystem, path = filesystem_of(uri)
    found = names(uri)
    if not set(found) <= {*files} or (is_local(uri) and Path(path).is_symlink()):
        return False
    with translate_errors(uri):
        for name in files:
            if name in found:
                filesystem.rm_file(join(path, name))
        if isinstance(filesystem, LocalFileSystem):
            with contextlib.suppress(FileNotFoundError):
                filesystem.rmdir(path)
    return True


def remove_matching_files(uri: str, own: str) -> None:
    """Remove the files below a folder whose paths from there match a regular expression.

    The folder itself and those directly in it go too where they are empty.
    """
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        for file in filesystem.find(path):
            if re.fullmatch(own, file.removeprefix(path).lstrip("/")):
                filesystem.rm_file(file)
    if isinstance(filesystem, LocalFileSystem):
        for name in [*names(uri), ""]:
            with contextlib.suppress(OSError):
                Path(path, name).rmdir()


def remove_file(uri: str) -> None:
    """Remove a file, if it is there."""
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri), contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def make_folder(uri: str) -> None:
    """Make a folder and its parents.

    An object store has no folders: there it is checked that the bucket exists, if it has buckets.

    Raises:
        UserError: the place cannot be written to.
    """
    filesystem, path = filesystem_of(uri)
    if not isinstance(filesystem, LocalFileSystem):
        if uri.startswith(BUCKETS):
            _check_bucket(uri, filesystem, path.partition("/")[0])
        return
    with writing_to(uri):
        try:
            filesystem.makedirs(path, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc
            raise PermissionError(errno.EACCES, "Permission denied") from error
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")


def _check_bucket(uri: str, filesystem: fsspec.AbstractFileSystem, bucket: str) -> None:
    with translate_errors(uri):
        try:
            filesystem.info(bucket)
        except FileNotFoundError as error:
            raise UserError(f"no bucket '{bucket}' for {uri}: make it first") from error


@contextlib.contextmanager
def writing_to(uri: str) -> Iterator[None]:
    """A block whose failures to write become one clear line.

    Raises:
        UserError: no permission, disk full, or a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        raise UserError(f"cannot write {uri}: {WRITE_ERRORS[error.errno]}") from error


@contextlib.contextmanager
def atomic_file(uri: str, *, fsync: bool = True) -> Iterator[Path]:
    """A local path to write; its content appears under `uri` when the block ends without error.

    Args:
        uri: the file.
        fsync: wait until a local disk has it, so that it outlives a loss of power too.

    Raises:
        UserError: no permission, or the disk is full. Nothing is left behind.
    """
    filesystem, path = filesystem_of(uri)
    local = isinstance(filesystem, LocalFileSystem)
    with writing_to(uri):
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            PARTIAL, f".{Path(path).name}.", Path(path).parent if local else None
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with writing_to(uri):
            yield temporary
            if local:
                _give_mode(temporary)
                if fsync:
                    _sync(temporary)
                temporary.replace(path)
                if fsync:
                    _sync(Path(path).parent)
        if not local:
            with translate_errors(uri):
                filesystem.put_file(str(temporary), path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    uri: str, *, last: str | None = None, scratch: Path | None = None
) -> Iterator[Path]:
    """A local folder to fill; it appears under `uri` when the block ends without error.

    If there is such a folder already, its files of the same names are replaced and all others stay.
    There, and on an object store, files appear one by one.

    Args:
        uri: the folder.
        last: the file of it that appears after all others, so that where it is, all are; an older
            one is removed first.
        scratch: where to make the folder before it goes to an object store; none: the system's
            place for temporary files.

    Raises:
        UserError: no permission, the disk is full, or a file is there. Nothing is left behind.
    """
    filesystem, path = filesystem_of(uri)
    local = isinstance(filesystem, LocalFileSystem)
    with writing_to(uri):
        if local and filesystem.isfile(path):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(
            PARTIAL, f".{Path(path).name}.", Path(path).parent if local else scratch
        )
    temporary = Path(name)
    try:
        with writing_to(uri):
            yield temporary
            if local:
                for each in (*temporary.rglob("*"), temporary):
                    _give_mode(each)
                    _sync(each)
                _move_folder(temporary, Path(path), last)
                _sync(Path(path).parent)
        if not local:
            with translate_errors(uri):
                _upload_folder(temporary, filesystem, path, last)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _give_mode(path: Path) -> None:
    """Give a file or folder the permissions of a new one: tempfile's are its owner's alone."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~UMASK)


def _sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_folder(temporary: Path, path: Path, last: str | None) -> None:
    """Give a folder its name, or its files to the folder that has the name already."""
    if not path.exists():
        temporary.replace(path)
        return
    if last is not None:
        (path / last).unlink(missing_ok=True)
    for file in _with_last(temporary, last):
        target = path / file.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        _sync(target.parent)


def _upload_folder(
    temporary: Path, filesystem: fsspec.AbstractFileSystem, path: str, last: str | None
) -> None:
    files = [str(file) for file in _with_last(temporary, last)]
    targets = [join(path, Path(file).relative_to(temporary).as_posix()) for file in files]
    if last is None:
        filesystem.put(files, targets)
        return
    if filesystem.exists(targets[-1]):
        filesystem.rm_file(targets[-1])
    filesystem.put(files[:-1], targets[:-1])
    filesystem.put_file(files[-1], targets[-1])


def _with_last(folder: Path, last: str | None) -> list[Path]:
    """The files of a folder, the one that has to come last at the end."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(files, key=lambda file: (file == folder / (last or ""), file))


def read_bytes(uri: str) -> bytes:
    """The content of a file."""
    filesystem, path = filesystem_of(uri)
    with translate_errors(uri):
        content: bytes = filesystem.cat_file(path)
    return content


@contextlib.contextmanager
def open_to_read(uri: str, block_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A file to read parts of; only those travel from an object store.

    Args:
        uri: the file.
        block_bytes: fetch and keep blocks of this size, for many small reads; none: each read
            fetches just what it asks for.

    Raises:
        FileNotFoundError: there is no such file.
        UnreachableError: an object store does not answer, in the block too; what readers raise
            there for a damaged file stays what it is.
    """
    filesystem, path = filesystem_of(uri)
    options: dict[str, Any] = {}
    if not isinstance(filesystem, LocalFileSystem):
        options = {"cache_type": "none"}
        if block_bytes is not None:
            options = {"cache_type": "blockcache", "block_size": block_bytes}
    with translate_errors(uri):
        file = filesystem.open(path, "rb", **options)
    with file, reading(uri):
        yield file


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """A block that reads parts of an open file; errors are those of `open_to_read`."""
    try:
        yield
    except Exception as error:
        if _is_of_a_reader(error):
            raise
        with translate_errors(uri):
            raise


def _is_of_a_reader(error: Exception) -> bool:
    """Whether it is of what reads a file (damage has no error number), not of where it lies."""
    if isinstance(error, OSError):
        return error.errno is None and not isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, (*UNREADABLE, pyarrow.ArrowException))


def read_json(uri: str) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        content = read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no such file: {uri}") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not a JSON file ({error}); was it cut short?") from error


def write_json(uri: str, value: Any, *, fsync: bool = True) -> None:
    """Write a value as JSON, atomically; `fsync` as in `atomic_file`."""
    with atomic_file(uri, fsync=fsync) as path:
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def without_nan(value: Any) -> Any:
    """A JSON-able value with null for the numbers that JSON has not: NaN and the infinite ones."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return value


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a local file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """The SHA-256, in hex, of a JSON-able value in its canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path with the content of a file or folder: the thing itself, if it is local."""
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / Path(path).name
        with translate_errors(uri):
            filesystem.get(path, str(target), recursive=True)
        yield target


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """What Ray needs to write below a URI: a file system (none: the local one) and a path.

    Ray's own choice for s3:// would take its settings from other places than ours does.
    """
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        return None, path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What holds a file, and the file's path there.

    Raises:
        UserError: no such kind of storage, or its package is not installed.
    """
    if is_local(uri):
        return LocalFileSystem(), absolute(uri)  # fsspec would take `::` in a name for its own
    try:
        # Listings that are remembered hide what other processes write.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3", unknown protocol
        raise UserError(f"cannot reach {uri}: {error}") from error
    return filesystem, path


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """A block whose failures to reach an object store become one clear line."""
    try:
        yield
    except (UserError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except PermissionError as error:
        if is_local(uri):
            raise
        raise UserError(
            f"no permission for {uri} ({_reason(error)}): check the keys in the environment and "
            "what they may do"
        ) from error
    except Exception as error:
        if is_local(uri):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk of {tempfile.gettempdir()}, where {uri} is copied to, is full: free "
                "some space or set TMPDIR"
            ) from error
        # Each kind of store has exceptions of its own, and none but these come from there.
        raise UnreachableError(
            f"cannot reach {uri} ({_reason(error)}): check the address and the keys in the "
            "environment, and the network"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
