"""Tables about images: labels, partitions and identities, as CelebA's text files or as CSV.

Legend: N images in a data set, A attributes.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int8

from facevae.config import LabelEncoding, Split
from facevae.errors import UserError

# The bytes of int8: tokens of a row become labels without a Python number for each.
_LABEL_BYTES = {"-1": 255, "0": 0, "1": 1, "+1": 1, "-1.0": 255, "0.0": 0, "1.0": 1}
_PARTITIONS: dict[str, Split] = {"0": "train", "1": "val", "2": "test"}

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
    names = _attribute_names(path, rows, has_commas)
    lines: dict[str, int] = {}
    values = bytearray()
    for line, (image_id, *row) in rows:
        if len(row) != len(names):
            raise _error(path, line, f"expected {len(names)} labels, found {len(row)}")
        _add_id(path, lines, image_id, line)
        try:
            values.extend(map(_LABEL_BYTES.__getitem__, row))
        except KeyError as error:
            raise _error(path, line, f"expected labels -1, 0 or 1, found {error}") from None
    if stated is not None and stated != len(lines):
        raise _error(path, 1, f"says {stated} rows, found {len(lines)}: is the file cut short?")
    if not lines:
        raise UserError(f"{path} has a header and no rows")
    labels = np.frombuffer(values, np.int8).reshape(len(lines), len(names))
    return LabelTable(names, tuple(lines), _signed(path, labels, encoding, tuple(lines.values())))


def read_partition(path: str) -> dict[str, Split]:
    """Returns the split of each image id: rows "id 0|1|2" (train, val, test), text or CSV.

    Raises:
        UserError: the file is missing or not such a table; with the line number.
    """
    return _read_pairs(path, "0, 1 or 2", _PARTITIONS.get)


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
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the table {path}: {error.strerror}") from None
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
                yield reader.line_num, row
    except csv.Error as error:
        raise _error(path, reader.line_num, str(error)) from None


def _stated_count(path: str, rows: Iterator[Row]) -> int:
    line, row = next(rows)
    if len(row) != 1 or _whole_number(row[0]) is None:
        found = " ".join(row)[:40]
        raise _error(path, line, f"expected a row count or a header with commas, found '{found}'")
    return int(row[0])


def _attribute_names(path: str, rows: Iterator[Row], has_commas: bool) -> tuple[str, ...]:
    expected_line = 1 if has_commas else 2
    line, header = next(rows, (0, []))
    names = tuple(header[1:] if has_commas else header)
    if line != expected_line or not all(names):
        raise _error(path, expected_line, "expected the attributes' names, found none or a blank")
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise _error(path, line, f"the attribute '{repeated[0]}' is named twice")
    return names


def _add_id(path: str, lines: dict[str, int], image_id: str, line: int) -> None:
    first = lines.setdefault(image_id, line)
    if first != line:
        raise _error(path, line, f"'{image_id}' has a row already, in line {first}")


def _signed(
    path: str, labels: Int8[np.ndarray, "N A"], encoding: LabelEncoding, lines: tuple[int, ...]
) -> Int8[np.ndarray, "N A"]:
    """Returns labels in {-1, 0, +1} whose 0 means unknown."""
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
