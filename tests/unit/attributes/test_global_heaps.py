import io

import h5py
import numpy as np
import pytest

from facevae.attributes.global_heaps import SIGNATURE, check_heaps_of


def _file(texts: list[str], **options) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("texts", data=texts, dtype=h5py.string_dtype(), **options)
        file.create_dataset("numbers", data=np.arange(1000))
    return content.getvalue()


def _check(content: bytes) -> None:
    file = io.BytesIO(content)
    with h5py.File(file, "r") as opened:
        check_heaps_of(opened["texts"], file)


@pytest.mark.parametrize("texts", [["a"], [""] * 50, ["x" * n for n in range(300)], ["y" * 70_000]])
def test_what_the_library_writes_passes(texts):
    content = _file(texts)
    assert SIGNATURE in content
    _check(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        assert file["texts"].asstr()[:].tolist() == texts


@pytest.mark.parametrize(("first", "size"), [(0, 0), (0, 8), (1, 1 << 40), (1, (1 << 64) - 1)])
def test_an_object_that_cannot_be_stepped_over_is_found(first, size):
    """With free space of no size the library would read such a file for ever."""
    good = _file(["one", "two"])
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 16 : place + 18] = first.to_bytes(2, "little")
    bad[place + 24 : place + 32] = size.to_bytes(8, "little")
    with pytest.raises(ValueError, match=f"at byte {place} is damaged"):
        _check(bytes(bad))


@pytest.mark.parametrize("size", [0, 15, 17 << 20, 1 << 40])
def test_a_heap_of_an_impossible_size_is_found(size):
    good = _file(["one", "two"]) + bytes(32 << 20)
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 8 : place + 16] = size.to_bytes(8, "little")
    with pytest.raises(ValueError, match=f"at byte {place} is damaged"):
        _check(bytes(bad))


def test_texts_in_pieces_are_refused():
    with pytest.raises(ValueError, match="do not lie in one piece"):
        _check(_file(["one", "two"], chunks=(1,)))


def test_only_heaps_are_read_where_they_are_known():
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("numbers", data=np.zeros(1_000_000))
        file.create_dataset("texts", data=["a", "b"], dtype=h5py.string_dtype())
    read = 0

    class Counting(io.BytesIO):
        def read(self, size=-1):
            nonlocal read
            found = super().read(size)
            read += len(found)
            return found

        def readinto(self, buffer):
            nonlocal read
            found = super().readinto(buffer)
            read += found
            return found

    with h5py.File(file := Counting(content.getvalue()), "r") as opened:
        check_heaps_of(opened["texts"], file)
    assert read < 50_000
