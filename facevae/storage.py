"""Files by URI (local path, s3://, gs://, hf://) through fsspec; every write is atomic.

A local write goes to a temporary name in the same folder and is renamed, so that a reader or a
killed program never sees half a file; object stores make a whole object visible at once anyway.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facevae.errors import UserError

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


def is_local(uri: str) -> bool:
    """Whether the URI names a file of this machine."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI made independent of the working directory, which Ray moves in workers."""
    if not is_local(uri):
        return uri.rstrip("/")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def join(uri: str, *names: str) -> str:
    """The URI of a file below a folder."""
    return "/".join([uri.rstrip("/"), *names])


def exists(uri: str) -> bool:
    """Whether a file or folder is there.

    Raises:
        UserError: no such kind of storage, or its package is not installed; as all here do.
    """
    filesystem, path = _filesystem(uri)
    return bool(filesystem.exists(path))


def make_folder(uri: str) -> None:
    """Make a folder and its parents.

    Raises:
        UserError: the place cannot be written to.
    """
    filesystem, path = _filesystem(uri)
    with writing_to(uri):
        try:
            filesystem.makedirs(path, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc
            raise PermissionError(errno.EACCES, "Permission denied") from error
        if isinstance(filesystem, LocalFileSystem) and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")


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
def atomic_file(uri: str) -> Iterator[Path]:
    """A local path to write; its content appears under `uri` when the block ends without error.

    Raises:
        UserError: no permission, or the disk is full. Nothing is left behind.
    """
    filesystem, path = _filesystem(uri)
    local = isinstance(filesystem, LocalFileSystem)
    with writing_to(uri):
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{Path(path).name}.", dir=Path(path).parent if local else None
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with writing_to(uri):
            yield temporary
            if local:
                temporary.chmod(0o644)
                temporary.replace(path)
            else:
                filesystem.put_file(str(temporary), path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(uri: str) -> Iterator[Path]:
    """A local folder to fill; it appears under `uri` when the block ends without error.

    An older folder of that name is replaced.

    Raises:
        UserError: no permission, the disk is full, or a file is there. Nothing is left behind.
    """
    filesystem, path = _filesystem(uri)
    local = isinstance(filesystem, LocalFileSystem)
    with writing_to(uri):
        if filesystem.isfile(path):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(
            prefix=f".{Path(path).name}.", dir=Path(path).parent if local else None
        )
    temporary = Path(name)
    try:
        with writing_to(uri):
            yield temporary
            if not local:
                older = set(filesystem.find(path))
                filesystem.put(f"{temporary}/", path, recursive=True)
                files = (file for file in temporary.rglob("*") if file.is_file())
                newer = {join(path, file.relative_to(temporary).as_posix()) for file in files}
                for left_over in older - newer:
                    filesystem.rm_file(left_over)
                return
            temporary.chmod(0o755)
            if Path(path).exists():
                replaced = temporary.with_name(f"{temporary.name}.replaced")
                Path(path).replace(replaced)
                try:
                    temporary.replace(path)
                except OSError:
                    replaced.replace(path)
                    raise
                shutil.rmtree(replaced)
            else:
                temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_bytes(uri: str) -> bytes:
    """The content of a file."""
    filesystem, path = _filesystem(uri)
    with filesystem.open(path, "rb") as file:
        content: bytes = file.read()
    return content


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
    except ValueError as error:
        raise UserError(f"{uri} is not a JSON file ({error}); was it cut short?") from error


def write_json(uri: str, value: Any) -> None:
    """Write a value as JSON, atomically."""
    with atomic_file(uri) as path:
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


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
    filesystem, path = _filesystem(uri)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / Path(path).name
        filesystem.get(path, str(target), recursive=True)
        yield target


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What holds a file, and the file's path there."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3", unknown protocol
        raise UserError(f"cannot reach {uri}: {error}") from error
    return filesystem, path
