"""How rows of tables and images find each other by name."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from facevae.data.sources.image_files import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, extension_of
from facevae.errors import UserError

NO_IMAGE = "label row without image"
_EXTENSIONS = IMAGE_EXTENSIONS | UNREAD_EXTENSIONS

Value = TypeVar("Value")
Item = TypeVar("Item", int, str)


def match(ids: Sequence[str], files: Sequence[str]) -> tuple[dict[str, int], dict[int, str]]:
    """Returns the row of each file that has one, and the reason of each row that has no file.

    An id may be a file's path, that path with another extension, its name, or its name with
    another extension; the surer way goes first. What fits twice is left out, never guessed.
    """
    rows: dict[str, int] = {}
    reasons: dict[int, str] = {}
    open_rows, open_files = list(range(len(ids))), list(files)
    for key in KEYS:
        rows_of = _grouped(open_rows, [key(ids[row]) for row in open_rows])
        files_of = _grouped(open_files, map(key, open_files))
        for name in rows_of.keys() & files_of.keys():
            same, found = rows_of[name], files_of[name]
            if len(same) == len(found) == 1:
                rows[found[0]] = same[0]
            else:
                reason = f"ambiguous: {len(same)} rows and {len(found)} images are called '{name}'"
                reasons.update(dict.fromkeys(same, reason))
        open_rows = [row for name in rows_of.keys() - files_of.keys() for row in rows_of[name]]
        open_files = [file for name in files_of.keys() - rows_of.keys() for file in files_of[name]]
    reasons.update(dict.fromkeys(open_rows, NO_IMAGE))
    return rows, reasons


def by_file(path: str, values: Mapping[str, Value], files: Sequence[str]) -> dict[str, Value]:
    """Returns a table's value for each file that it is about.

    Raises:
        UserError: it is about none.
    """
    ids = list(values)
    rows, _ = match(ids, files)
    if not rows:
        raise no_row(path, ids, files)
    return {file: values[ids[row]] for file, row in rows.items()}


def same_names(ids: Sequence[str], rows: Sequence[int], files: Sequence[str]) -> dict[int, str]:
    """Returns the file for each of these rows that has one by any of the names."""
    found: dict[int, str] = {}
    for key in reversed(KEYS):
        by_key = {key(file): file for file in files}
        found |= {row: by_key[key(ids[row])] for row in rows if key(ids[row]) in by_key}
    return found


def no_row(table: str, ids: Sequence[str], files: Sequence[str]) -> UserError:
    """Returns what a table is refused with that is about other images."""
    return UserError(
        f"no row of {table} is about an image: its first id is '{ids[0]}', the first image "
        f"'{files[0]}'; ids should be the images' paths or names, with or without extension"
    )


def _grouped(items: Iterable[Item], keys: Iterable[str]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return groups


def _stem(path: str) -> str:
    """Returns a path without an image's extension; "v1.0" keeps its ".0"."""
    path = posixpath.normpath(path.replace("\\", "/"))
    return posixpath.splitext(path)[0] if extension_of(path) in _EXTENSIONS else path


def _name_stem(path: str) -> str:
    return posixpath.basename(_stem(path))


KEYS = (str, _stem, posixpath.basename, _name_stem)
"""how an id may name a file, the surest way first"""
