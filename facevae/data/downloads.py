"""What a file is that was meant to be data: a page, a pointer, a part of what was to be had."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from facevae.errors import UserError
from facevae.runs import storage

HEAD_BYTES = 512
"""of a file, as many as `kind_of_content` looks at"""
CELEBA_MD5 = {
    "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
    "identity_CelebA.txt": "32bd1bd63d3c78cd57e08160ec5ed1e2",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
"""the files of CelebA's page, by name (as torchvision's CelebA lists them)"""
WHERE_CELEBA_IS = (
    "CelebA, for non-commercial research only, is at mmlab.ie.cuhk.edu.hk/projects/CelebA.html, on "
    "Kaggle (jessicali9530/celeba-dataset) and on Hugging Face (flwrlabs/celeba)"
)
"""what somebody without a data set is told"""
_BEGINNINGS = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PAR1": "parquet",
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"), "compressed"),
}


def kind_of_content(head: bytes) -> str | None:
    """Returns "zip", "parquet", "tar" or "compressed" by a file's first bytes; none: none of them.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.
    """
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for start, kind in _BEGINNINGS.items() if head.startswith(start)), None)


def no_data(head: bytes) -> str | None:
    """Returns what a file is instead of data, and what to do; none: it is nothing known.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:100].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return (
            "a web page, as a download leaves that asks for a sign-in or is over its quota: "
            "download the file again"
        )
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file that it stands for: run git lfs pull"
    return None


def read_head(uri: str) -> bytes:
    """Returns the first HEAD_BYTES of a file, or all of it.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read.
    """
    try:
        with storage.open_to_read(uri) as file:
            return file.read(HEAD_BYTES)
    except PermissionError as error:
        raise UserError(f"cannot read {uri}: {error.strerror}") from None


@contextlib.contextmanager
def name_broken_download(uri: str) -> Iterator[None]:
    """A block that reads a file; what is wrong gets to know whether it is CelebA's of that name.

    The hash is taken only where reading failed: that of all images takes seconds.

    Raises:
        UserError: that of the block, with what a wrong hash means.
    """
    try:
        yield
    except UserError as error:
        path, md5 = Path(uri), CELEBA_MD5.get(PurePosixPath(uri).name)
        if md5 is None or not storage.is_local(uri) or not path.is_file():
            raise
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        if found.hexdigest() == md5:
            raise
        raise UserError(
            f"{error} (its MD5 is not {md5}, that of CelebA's file of this name)"
        ) from error
