"""A check of HDF5 files that the library lacks: heaps of texts that it would read for ever.

HDF5 file format specification, III.E, "Global Heap": a collection is the signature GCOL, version 1,
three reserved bytes and its size in 8; then objects, each an index in 2 bytes, a count in 2, four
reserved bytes, its size in 8, and its data, filled up to a multiple of 8. Index 0 is free space,
whose size includes its own 16 bytes; the library steps by it, also if it is 0.
"""

from typing import BinaryIO

SIGNATURE = b"GCOL\x01\x00\x00\x00"
HEAD = 16
"""bytes of the head of a collection, and of that of an object"""
CHUNK = 16 << 20


def check_global_heaps(file: BinaryIO) -> None:
    """Look at the heaps of an HDF5 file with offsets of 8 bytes, and go back to its beginning.

    Raises:
        ValueError: an object that cannot be stepped over.
    """
    for place in _places(file):
        file.seek(place + len(SIGNATURE))
        size = int.from_bytes(file.read(8), "little")
        if HEAD <= size <= CHUNK:  # the library refuses what is larger than the file by itself
            _check_collection(file.read(size - HEAD), place)
    file.seek(0)


def _places(file: BinaryIO) -> list[int]:
    """Where heaps begin."""
    places, start, tail = [], 0, b""
    file.seek(0)
    while chunk := file.read(CHUNK):
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
