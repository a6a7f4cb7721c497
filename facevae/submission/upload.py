"""What Ray would send of a folder with a job, looked at before anything is sent."""

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE, get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _get_excludes, get_excludes_from_ignore_files

from facevae.errors import UserError

LARGEST = int(DASHBOARD_CLIENT_MAX_SIZE)
"""bytes of the largest request that a dashboard takes"""
ZIP_OVERHEAD = 200
"""bytes that a file takes in an archive beside its content and twice its name, at most"""
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""what a link to nothing or to itself says; Ray leaves it out"""
IGNORE_FILE = ".rayignore"
SPECIAL = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
"""what has no content to send; Ray waits for it without end"""

Excluded = Callable[[Path], bool]


class Upload(NamedTuple):
    """What is sent of a folder."""

    paths: frozenset[Path]
    """the files and folders"""
    excludes: tuple[str, ...]
    """patterns, as in .rayignore, of the links that lead back; Ray would follow them"""


def look_at_upload(folder: Path) -> Upload:
    """What Ray would send of a folder.

    Args:
        folder: an absolute path without links.

    Raises:
        UserError: a file cannot be sent, or all of them are too large.
    """
    paths: set[Path] = set()
    links: list[str] = []
    sizes: Counter[str] = Counter()
    ignored = [_get_excludes(folder, get_runtime_env_default_excludes())]
    try:
        for path, leads_back in _walk(folder, ignored, ()):
            name = path.relative_to(folder).as_posix()
            if leads_back:
                links.append("/" + re.sub(r"([\\\[\]!*#? ])", r"\\\1", name))
                continue
            paths.add(path)
            sizes[name.partition("/")[0]] += _size(path, folder)
            if sizes.total() >= LARGEST:
                raise _too_large(folder, sizes)
    except PermissionError as error:
        raise _refused(error.filename, "cannot be read", folder) from error
    return Upload(frozenset(paths), tuple(links))


def _walk(
    path: Path, excluded: Sequence[Excluded], above: tuple[Path, ...]
) -> Iterator[tuple[Path, bool]]:
    """Ray's own walk: each path, and whether it is a link that leads back; these are not entered.

    Args:
        path: where to begin.
        excluded: what tells whether a path is left out.
        above: the folders that it lies in, without links.
    """
    is_folder = path.is_dir()
    if is_folder:
        has_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
        found = get_excludes_from_ignore_files(path, include_gitignore=has_gitignore)
        excluded = [*excluded, *found]
    if any(is_excluded(path) for is_excluded in excluded):
        return
    place = path.resolve() if is_folder else path
    leads_back = is_folder and any(each.is_relative_to(place) for each in above)
    yield path, leads_back
    if is_folder and not leads_back:
        for child in sorted(path.iterdir()):
            yield from _walk(child, excluded, (*above, place))


def _size(path: Path, folder: Path) -> int:
    """How much of an archive a file takes.

    Raises:
        UserError: it cannot be sent.
    """
    name = str(path)
    if name.encode(errors="ignore").decode() != name:
        raise _refused(ascii(name), "has a name that is not UTF-8", folder)
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in NOTHING_THERE:
            return 0
        raise
    if stat.S_ISDIR(status.st_mode):
        return 0
    for is_kind, kind in SPECIAL.items():
        if is_kind(status.st_mode):
            raise _refused(name, f"is {kind}, which cannot be sent", folder)
    if not os.access(path, os.R_OK):
        raise PermissionError(None, None, name)
    size = status.st_size + 2 * len(name) + ZIP_OVERHEAD
    if size >= LARGEST:
        problem = f"has {_mebibytes(size)}, where {_mebibytes(LARGEST)} are sent with a job at most"
        raise _refused(name, problem, folder)
    return size


def _refused(name: str, problem: str, folder: Path) -> UserError:
    return UserError(
        f"{name} {problem}: name it in {folder / IGNORE_FILE}, or move it out of the folder"
    )


def _too_large(folder: Path, sizes: Counter[str]) -> UserError:
    largest, size = sizes.most_common(1)[0]
    return UserError(
        f"{folder} has more than the {_mebibytes(LARGEST)} that are sent with a job at most, "
        f"{_mebibytes(size)} of it in {largest}: name what the job does not need in "
        f"{folder / IGNORE_FILE}"
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
