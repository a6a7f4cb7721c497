import io

import h5py
import numpy as np
import pytest

from facevae.attributes import global_heaps
from facevae.attributes.global_heaps import SIGNATURE, check_global_heaps


def _file(texts: list[str]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("texts", data=texts, dtype=h5py.string_dtype())
        file.create_dataset("numbers", data=np.arange(1000))
        file.attrs["word"] = "word"
    return content.getvalue()


@pytest.mark.parametrize("texts", [["a"], [""] * 50, ["x" * n for n in range(300)], ["y" * 70_000]])
def test_what_the_library_writes_passes(texts):
    file = io.BytesIO(_file(texts))
    assert SIGNATURE in file.getvalue()
    check_global_heaps(file)
    assert file.tell() == 0


def test_an_object_without_size_is_found_wherever_its_heap_lies(monkeypatch):
    """The library would read such a file for ever."""
    good = _file(["one", "two"])
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 16 : place + 32] = bytes(16)
    for chunk in (1 << 20, place + 3, 97):  # heads that two pieces share are found too
        monkeypatch.setattr(global_heaps, "CHUNK", max(chunk, 5000))
        with pytest.raises(ValueError, match=f"at byte {place} is damaged"):
            check_global_heaps(io.BytesIO(bytes(bad)))


def test_an_object_beyond_its_heap_is_found():
    good = _file(["one"])
    place = good.index(SIGNATURE)
    bad = bytearray(good)
    bad[place + 24 : place + 32] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ValueError, match="is damaged"):
        check_global_heaps(io.BytesIO(bytes(bad)))


def test_a_head_across_two_pieces_is_found(monkeypatch):
    monkeypatch.setattr(global_heaps, "CHUNK", 10)
    content = bytes(6) + SIGNATURE + bytes(30) + SIGNATURE
    assert global_heaps._places(io.BytesIO(content)) == [6, 44]
