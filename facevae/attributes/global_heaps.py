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
MAX_COLLECTION = 16 << 20
REFERENCE = np.dtype([("length", "<u4"), ("place", "<u8"), ("index", "<u4")])
"""how a data set refers to a text in a heap"""


def check_heaps_of(texts: h5py.Dataset, content: BinaryIO) -> None:
    """Look at the heaps that texts of variable length refer to, before they are read.

    Args:
        texts: a data set of a file with offsets of 8 bytes.
        content: the bytes of that file.

    Raises:
        ValueError: an object that cannot be stepped over, or references that do not lie in one
            piece, as in a compressed data set.
    """
    offset = texts.id.get_offset()
    if offset is None and texts.size:
        raise ValueError(f"the texts of {texts.name} do not lie in one piece")
    content.seek(offset or 0)
    places = np.frombuffer(content.read(REFERENCE.itemsize * texts.size), REFERENCE)["place"]
    for place in np.unique(places[places > 0]).tolist():
        content.seek(place)
        head = content.read(HEAD)
        size = int.from_bytes(head[len(SIGNATURE) :], "little")
        # The library itself refuses another signature.
        if head.startswith(SIGNATURE):
            _check_collection(content.read(max(0, min(size, MAX_COLLECTION) - HEAD)), size, place)


def _check_collection(objects: bytes, size: int, place: int) -> None:
    at, end = 0, size - HEAD
    damaged = end != len(objects)
    while not damaged and at + HEAD <= end:
        index = int.from_bytes(objects[at : at + 2], "little")
        data = int.from_bytes(objects[at + 8 : at + HEAD], "little")
        step = data if index == 0 else HEAD + -(-data // 8) * 8
        at += step
        damaged = step < HEAD or at > end
    if damaged:
        raise ValueError(f"the heap of texts at byte {place} is damaged")
