"""A check of HDF5 files that the library lacks: heaps of texts that it would read for ever.

HDF5 file format specification, III.E, "Global Heap": a collection is the signature GCOL, version 1,
three reserved bytes and its size in 8; then objects, each an index in 2 bytes, a count in 2, four
reserved bytes, its size in 8, and its data, filled up to a multiple of 8. Index 0 is free space,
whose size includes its own 16 bytes; the library steps by it, also if it is 0.
"""

from typing import BinaryIO

import h5py
import numpy as np

SIGNATURE = b"GCOL\x01\x00\x00\x00"
HEAD = 16
"""bytes of the head of a collection, and of that of an object"""
CHUNK = 16 << 20
REFERENCE = np.dtype([("length", "<u4"), ("place", "<u8"), ("index", "<u4")])
"""how a data set refers to a text in a heap"""


def check_global_heaps(file: h5py.File, content: BinaryIO) -> None:
    """Look at the heaps that the texts of a file's top level refer to, before they are read.

    Args:
        file: the opened file, with offsets of 8 bytes.
        content: its bytes.

    Raises:
        ValueError: an object that cannot be stepped over.
    """
    for dataset in file.values():
        if isinstance(dataset, h5py.Dataset) and _refers(dataset.id.get_type()):
            for place in _heaps_of(dataset, content):
                _check(content, place)
    if any(_refers(file.attrs.get_id(name).get_type()) for name in file.attrs):
        for place in _places(content):  # where attributes refer to, the library does not tell
            _check(content, place)


def _refers(kind: h5py.h5t.TypeID) -> bool:
    is_text: bool = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    return is_text or kind.get_class() == h5py.h5t.VLEN


def _heaps_of(dataset: h5py.Dataset, content: BinaryIO) -> list[int]:
    """The places of heaps: each text is its length in 4 bytes, a place in 8, an index in 4."""
    offset = dataset.id.get_offset()
    if offset is None:
        return [] if not dataset.size else _places(content)
    content.seek(offset)
    places = np.frombuffer(content.read(REFERENCE.itemsize * dataset.size), REFERENCE)["place"]
    return [int(place) for place in np.unique(places) if place]


def _check(content: BinaryIO, place: int) -> None:
    content.seek(place)
    head = content.read(HEAD)
    size = int.from_bytes(head[len(SIGNATURE) :], "little")
    # The library itself refuses another signature, and what is larger than the file.
    if head.startswith(SIGNATURE) and HEAD <= size <= CHUNK:
        _check_collection(content.read(size - HEAD), place)


def _places(content: BinaryIO) -> list[int]:
    """Where heaps begin, by their signature."""
    places, start, tail = [], 0, b""
    content.seek(0)
    while chunk := content.read(CHUNK):
        text = tail + chunk
        found = text.find(SIGNATURE)
        while found >= 0:
            places.append(start - len(tail) + found)
            found = text.find(SIGNATURE, found + 1)
        start, tail = start + len(chunk), text[1 - len(SIGNATURE) :]
    return places


def _check_collection(objects: bytes, place: int) -> None:
    at = 0
    while at + HEAD <= len(objects):
        index = int.from_bytes(objects[at : at + 2], "little")
        size = int.from_bytes(objects[at + 8 : at + HEAD], "little")
        step = size if index == 0 else HEAD + -(-size // 8) * 8
        if step < HEAD or at + step > len(objects):
            raise ValueError(f"the heap of texts at byte {place} is damaged")
        at += step
