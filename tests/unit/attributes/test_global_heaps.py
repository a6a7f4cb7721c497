import io

import h5py
import numpy as np
import pytest

from facevae.attributes import global_heaps
from facevae.attributes.global_heaps import SIGNATURE, check_global_heaps


def _file(texts: list[str], **options) -> bytes:
    """Texts in a data set; one without data has them in an attribute."""
    content = io.BytesIO()
    options = {"data": texts, **options}
    with h5py.File(content, "w") as file:
        if options["data"] is None:
            file.attrs["words"] = texts
        file.create_dataset("texts", dtype=h5py.string_dtype(), **options)
        file.create_dataset("numbers", data=np.arange(1000))
    return content.getvalue()


def _check(content: bytes) -> None:
    file = io.BytesIO(content)
    with h5py.File(file, "r") as opened:
        check_global_heaps(opened, file)


@pytest.mark.parametrize("texts", [["a"], [""] * 50, ["x" * n for n in range(300)], ["y" * 70_000]])
def test_what_the_library_writes_passes(texts):
    content = _file(texts)
    assert SIGNATURE in content
    _check(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        assert file["texts"].asstr()[:].tolist() == texts


@pytest.mark.parametrize("options", [{}, {"chunks": (1,)}, {"data": None, "shape": (2,)}])
def test_an_object_without_size_is_found(options):
    """The library would read such a file for ever."""
    good = _file(["one", "two"], **options)
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 16 : place + 32] = bytes(16)
    with pytest.raises(ValueError, match=f"at byte {place} is damaged"):
        _check(bytes(bad))


def test_an_object_beyond_its_heap_is_found():
    good = _file(["one"])
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 24 : place + 32] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ValueError, match="is damaged"):
        _check(bytes(bad))


def test_a_head_across_two_pieces_is_found(monkeypatch):
    monkeypatch.setattr(global_heaps, "CHUNK", 10)
    content = bytes(6) + SIGNATURE + bytes(30) + SIGNATURE
    assert global_heaps._places(io.BytesIO(content)) == [6, 44]


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
        check_global_heaps(opened, file)
    assert read < 50_000
