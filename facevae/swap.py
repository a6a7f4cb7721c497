"""Compare and swap of a small file: of several programs that change it at once, one succeeds."""

import fcntl
import os
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facevae import storage


def compare_and_swap(uri: str, expected: bytes, content: bytes) -> bytes:
    """Replace what a file holds, if it holds what is expected; a missing file holds nothing.

    On local and network file systems a file lock makes the two one step, and on S3 a conditional
    put (If-Match, If-None-Match), which AWS, MinIO, Ceph and R2 have. A store without them ignores
    the condition or refuses it; there, and on other kinds of store, two programs that swap within
    the time of one request may both succeed.

    Args:
        uri: the file; a local one's folder must exist.
        expected: what the file should hold.
        content: what it holds afterwards.

    Returns:
        What the file held: `expected`, if it was replaced.

    Raises:
        UserError: the place cannot be reached, or written to.
    """
    filesystem, path = storage.filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        with storage.writing_to(uri):
            return _swap_local(Path(path), expected, content)
    with storage.reaching(uri):
        return _swap_object(filesystem, path, expected, content)


def _swap_local(path: Path, expected: bytes, content: bytes) -> bytes:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(handle, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it, and so does the program's end
        found = file.read()
        if found == expected:
            file.seek(0)
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    return found


def _swap_object(
    filesystem: fsspec.AbstractFileSystem, path: str, expected: bytes, content: bytes
) -> bytes:
    try:
        # The tag first: if the object changes before it is read, the tag is too old to put with.
        tag = filesystem.info(path).get("ETag")
        found: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        tag, found = None, b""
    if found != expected:
        return found
    if _put_if(filesystem, path, content, tag):
        return expected
    try:
        found = filesystem.cat_file(path)
    except FileNotFoundError:
        return b""
    # A put that is sent again, since its answer was lost, finds itself in its way.
    return expected if found == content else found


def _put_if(
    filesystem: fsspec.AbstractFileSystem, path: str, content: bytes, tag: str | None
) -> bool:
    """Put an object if its tag (none: its absence) is still what it was."""
    if not hasattr(filesystem, "call_s3"):
        filesystem.pipe_file(path, content)
        return True
    bucket, key, _ = filesystem.split_path(path)
    condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
    try:
        filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
    except OSError as error:
        code = _error_code(error)
        if code == "NotImplemented":
            filesystem.pipe_file(path, content)
        elif code not in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            raise
        else:
            return False
    return True


def _error_code(error: BaseException) -> str | None:
    """The code of an S3 server's answer, which s3fs keeps as the cause of its own error."""
    response = getattr(error.__cause__, "response", {})
    code = response.get("Error", {}).get("Code")
    return None if code is None else str(code)
