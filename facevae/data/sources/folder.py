"""A folder of images, flat or nested, on a disk or in an object store."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from facevae.data.downloads import WHERE_CELEBA_IS
from facevae.data.sources.image_files import (
    IMAGE_EXTENSIONS,
    UNREAD_EXTENSIONS,
    ImageFiles,
    check_bytes,
    chosen,
    is_hidden,
    no_images,
)
from facevae.errors import UserError
from facevae.runs import storage


@dataclass(frozen=True)
class FolderFiles(ImageFiles):
    """The images of a folder and those below it; an id is a file's path from there.

    Hidden files are passed over; links are followed, and each folder is visited once.
    """

    kind: ClassVar[str] = "image_folder"

    @cached_property
    def paths(self) -> list[str]:
        """The relative POSIX paths of all visible files.

        Raises:
            UserError: the folder is missing, not a folder, or unreadable.
        """
        if not storage.is_local(self.uri):
            found = [path for path in storage.files_below(self.uri) if not is_hidden(path)]
            if not found:
                raise _no_folder(self.uri, "nothing")
            return found
        return _files(Path(self.uri))

    def names(self) -> list[str]:
        """Returns the sorted paths of the images."""
        if paths := chosen(self.paths, IMAGE_EXTENSIONS, self.uri):
            return paths
        raise no_images(self.uri, self.unread())

    def unread(self) -> list[str]:
        """Returns the sorted paths of the images of kinds that are not read."""
        return chosen(self.paths, UNREAD_EXTENSIONS, self.uri)

    def read(self, name: str) -> bytes:
        """Returns a file of the folder; raises BadImageError or OSError."""
        if not storage.is_local(self.uri):
            return storage.read_bytes(storage.join(self.uri, name))
        with (Path(self.uri) / name).open("rb") as file:
            check_bytes(os.fstat(file.fileno()).st_size)
            return file.read()


def _files(root: Path) -> list[str]:
    if not root.is_dir():
        raise _no_folder(str(root), "a file" if root.exists() else "nothing")
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()
    for directory, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = Path(directory).relative_to(root).as_posix() + "/"
        paths += [prefix.removeprefix("./") + name for name in names if not name.startswith(".")]
    return paths


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}")


def _no_folder(uri: str, found: str) -> UserError:
    remedy = f"; {WHERE_CELEBA_IS}" if found == "nothing" else ""
    return UserError(f"expected a folder of images at {uri}, found {found}{remedy}")
