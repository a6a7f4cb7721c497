"""Tables about images: labels, partitions and identities, as CelebA's text files or as CSV.

Legend: N images in a data set, A attributes.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int8

from facevae.config import LabelEncoding, Split
from facevae.data.downloads import HEAD_BYTES, no_data
from facevae.errors import UserError
from facevae.runs import storage

# The bytes of int8: tokens of a row become labels without a Python number for each.
_LABEL_BYTES = {"-1": 255, "0": 0, "1": 1, "+1": 1, "-1.0": 255, "0.0": 0, "1.0": 1}
PARTITIONS: dict[str, Split] = {"0": "train", "1": "val", "2": "test"}
"""CelebA's numbers of its splits"""
_OTHER_TABLES = {
    "lefteye_x": "the columns of CelebA's landmarks: give list_attr_celeba instead",
    "x_1": "the columns of CelebA's face boxes: give list_attr_celeba instead",
    "partition": "a column of partitions: give that file as --partition",
}
"""columns of CelebA's other tables, and what to do with such a table"""

Row = tuple[int, list[str]]
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Attribute names, one id per row, and labels in {-1 absent, 0 unknown, +1 present}."""

    names: tuple[str, ...]
    image_ids: tuple[str, ...]
    labels: Int8[np.ndarray, "N A"]


def read_label_table(path: str, encoding: LabelEncoding = "auto") -> LabelTable:
    """Returns a label file: CelebA's text (row count, names, then id and labels) or CSV.

    `encoding` says what 0 means: "signed": unknown; "binary": absent, so it becomes -1; "auto":
    unknown in a file that also holds -1, and an error in one that does not.

    Raises:
        UserError: the file is missing, not such a table, or ambiguous; with the line number.
    """
    has_commas, rows = _read_rows(path)
    stated = None if has_commas else _stated_count(path, rows)
    header, names = _attribute_names(path, rows, has_commas)
    lines: dict[str, int] = {}
    values = bytearray()
    for line, (image_id, *row) in rows:
        if len(row) != len(names):
            named = f"line {header} names {len(names)} attributes"
            raise _error(path, line, f"expected {len(names)} labels, found {len(row)}; {named}")
        _add_id(path, lines, image_id, line)
        try:
            values.extend(map(_LABEL_BYTES.__getitem__, row))
        except KeyError as error:
            raise _error(path, line, f"expected labels -1, 0 or 1, found {error}") from None
    if stated is not None and stated != len(lines):
        raise _wrong_count(path, stated, lines)
    if not lines:
        raise UserError(f"{path} has a header and no rows")
    labels = np.frombuffer(values, np.int8).reshape(len(lines), len(names))
    signed = signed_labels(path, labels, encoding, tuple(lines.values()))
    return LabelTable(names, tuple(lines), signed)


def signed_labels(
    path: str, labels: Int8[np.ndarray, "N A"], encoding: LabelEncoding, lines: Sequence[int]
) -> Int8[np.ndarray, "N A"]:
    """Returns labels in {-1, 0, +1} whose 0 means unknown; `encoding` as in read_label_table.

    Raises:
        UserError: they are ambiguous, or not of that encoding; with the row's line.
    """
    negative = (labels < 0).any(axis=1)
    if encoding == "binary":
        if negative.any():
            line = lines[int(negative.argmax())]
            raise _error(path, line, "found -1, but label_encoding binary has only 0 and 1")
        return np.where(labels == 0, np.int8(-1), labels)
    if encoding == "auto" and not negative.any() and not labels.all():
        raise UserError(
            f"{path} holds only 0 and 1, so 0 may mean absent or unknown: "
            "say --sharding.label_encoding binary (absent) or signed (unknown)"
        )
    return labels


def read_partition(path: str) -> dict[str, Split]:
    """Returns the split of each image id: rows "id 0|1|2" (train, val, test), text or CSV.

    Raises:
        UserError: the file is missing or not such a table; with the line number.
    """
    return _read_pairs(path, "0, 1 or 2", PARTITIONS.get)


def read_identities(path: str) -> dict[str, int]:
    """Returns the number of the person on each image: rows "id number", text or CSV.

    Raises:
        UserError: the file is missing or not such a table; with the line number.
    """
    return _read_pairs(path, "a person's number", _whole_number)


def _error(path: str, line: int, message: str) -> UserError:
    return UserError(f"{path}, line {line}: {message}")


def _read_rows(path: str) -> tuple[bool, Iterator[Row]]:
    """Returns whether a table is comma separated, and its rows that are not blank, with lines."""
    try:
        content = storage.read_bytes(path)
        if found := no_data(content[:HEAD_BYTES]):
            raise UserError(f"{path} is {found}")
        text = content.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or "there is no such file"
        raise UserError(f"cannot read the table {path}: {reason}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): is it a table?") from None
    if "\0" in text:
        raise UserError(f"{path} is not text (it holds zero bytes): is it a table?")
    if not text.strip():
        raise UserError(f"{path} is empty: expected a table of images")
    lines = io.StringIO(text, newline=None)
    has_commas = "," in text.lstrip().partition("\n")[0]
    return has_commas, _csv_rows(path, lines) if has_commas else _text_rows(lines)


def _text_rows(lines: io.StringIO) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if row := line.split():
            yield number, row


def _csv_rows(path: str, lines: io.StringIO) -> Iterator[Row]:
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise _error(path, reader.line_num, str(error)) from None


def _stated_count(path: str, rows: Iterator[Row]) -> int:
    line, row = next(rows)
    if len(row) != 1 or _whole_number(row[0]) is None:
        found = " ".join(row)[:40]
        raise _error(
            path,
            line,
            f"expected a row count or a header with commas, found '{found}': put the number of "
            "rows into a line of its own above the names, or separate the columns by commas",
        )
    return int(row[0])


def _wrong_count(path: str, stated: int, lines: dict[str, int]) -> UserError:
    found = f"says {stated} rows, found {len(lines)}"
    if lines:
        found += f", the last in line {list(lines.values())[-1]}"
    question = "is the file cut short? If" if stated > len(lines) else "if"
    return _error(path, 1, f"{found}: {question} the rows are right, write {len(lines)}")


def _attribute_names(
    path: str, rows: Iterator[Row], has_commas: bool
) -> tuple[int, tuple[str, ...]]:
    """Returns the line of the attributes' names, and these."""
    expected_line = 1 if has_commas else 2
    line, header = next(rows, (0, []))
    names = tuple(header[1:] if has_commas else header)
    problem = _problem_of_names(header, names, has_commas) if line == expected_line else "none"
    if problem:
        raise _error(path, expected_line, f"expected the attributes' names, found {problem}")
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise _error(path, line, f"the attribute '{repeated[0]}' is named twice")
    return line, names


def _problem_of_names(header: list[str], names: tuple[str, ...], has_commas: bool) -> str | None:
    """Returns what a line has in the place of names, and what to do; none: it has names."""
    if not names:
        return "none"
    for name, other_table in _OTHER_TABLES.items():
        if name in names:
            return other_table
    if "" in names:
        column = names.index("") + 2
        return f"none in column {column}: name that column, or take its comma out"
    if not has_commas and any("," in name for name in names):
        return "commas: a CSV has no row count above its header, so take line 1 out"
    first, *others = header
    if others and first not in _LABEL_BYTES and all(cell in _LABEL_BYTES for cell in others):
        return f"the labels of '{first}': put a line with the names of the attributes above it"
    return None


def _add_id(path: str, lines: dict[str, int], image_id: str, line: int) -> None:
    first = lines.setdefault(image_id, line)
    if first != line:
        raise _error(path, line, f"'{image_id}' has a row already, in line {first}: take one out")


def _whole_number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None  # it fits 64 bits


def _read_pairs(path: str, expected: str, parse: Callable[[str], Value | None]) -> dict[str, Value]:
    """Returns id -> value of a table with two columns; the first row of a CSV may be a header."""
    has_commas, rows = _read_rows(path)
    lines: dict[str, int] = {}
    pairs: dict[str, Value] = {}
    for line, row in rows:
        if len(row) != 2:
            raise _error(path, line, f"expected an id and {expected}, found {len(row)} values")
        image_id, text = row
        value = parse(text)
        if value is not None:
            _add_id(path, lines, image_id, line)
            pairs[image_id] = value
        elif not (has_commas and line == 1):
            raise _error(path, line, f"expected {expected}, found '{text[:40]}'")
    if not pairs:
        raise UserError(f"{path} has a header and no rows")
    return pairs
