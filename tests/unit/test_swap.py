"""Compare and swap: of many at once one succeeds, on a disk and on S3."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from facevae import storage, swap
from facevae.errors import UserError
from facevae.swap import compare_and_swap


@pytest.fixture(params=["disk", "s3", "memory"])
def uri(request, tmp_path) -> str:
    """A file that is not there, on each kind of storage."""
    if request.param == "memory":
        return f"memory://{tmp_path}/file"
    folder = str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")
    return f"{folder}/file"


def test_a_file_is_replaced_only_if_it_holds_what_is_expected(uri):
    assert compare_and_swap(uri, b"", b"a long content") == b""
    assert compare_and_swap(uri, b"", b"another") == b"a long content"
    assert compare_and_swap(uri, b"a long content", b"short") == b"a long content"
    assert storage.read_bytes(uri) == b"short"


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_of_many_at_once_one_succeeds(place, request, tmp_path):
    folder = str(tmp_path) if place == "disk" else request.getfixturevalue("s3")
    uri = f"{folder}/file"
    for expected in (b"", b"first"):
        new = [b"%s %d" % (expected, number) for number in range(8)]
        if expected:
            compare_and_swap(uri, storage.read_bytes(uri), expected)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(partial(compare_and_swap, uri, expected), new))
        winner = found.index(expected)
        assert found.count(expected) == 1
        assert storage.read_bytes(uri) == new[winner]


def test_a_put_whose_answer_was_lost_counts_as_done(s3, monkeypatch):
    uri = f"{s3}/file"
    original = swap._put_if

    def put_twice(*arguments):
        original(*arguments)
        return original(*arguments)

    monkeypatch.setattr("facevae.swap._put_if", put_twice)
    assert compare_and_swap(uri, b"", b"mine") == b""


def test_a_store_without_conditions_is_written_to_plainly(s3, monkeypatch):
    import s3fs

    call = s3fs.S3FileSystem._call_s3

    async def refuse(self, method, *args, **kwargs):
        if "IfNoneMatch" in kwargs:
            from botocore.exceptions import ClientError
            from s3fs.errors import translate_boto_error

            answer = {"Error": {"Code": "NotImplemented", "Message": "a header"}}
            raise translate_boto_error(ClientError(answer, method))
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refuse)
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", _in_loop(refuse))
    assert compare_and_swap(f"{s3}/file", b"", b"mine") == b""
    assert storage.read_bytes(f"{s3}/file") == b"mine"


def _in_loop(function):
    from fsspec.asyn import sync

    return lambda self, *args, **kwargs: sync(self.loop, function, self, *args, **kwargs)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="in the way of the folder"):
        compare_and_swap(str(tmp_path / "file" / "lease"), b"", b"mine")
