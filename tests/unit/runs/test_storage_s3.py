"""Storage on an S3 endpoint of this machine: the same laws as on a disk, and reading by range."""

import contextlib
import errno

import boto3
import fsspec
import numpy as np
import pyarrow
import pytest
from botocore.exceptions import EndpointConnectionError
from s3fs.core import S3File

from facevae.attributes.hdf5 import read_rows, read_vectors, write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.data import shard_files
from facevae.data.shard_files import ShardRows, read_images, read_shard, write_shard
from facevae.errors import UnreachableError, UserError
from facevae.runs import storage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", [storage.atomic_file, storage.atomic_folder])
def test_a_failure_uploads_nothing(s3, kind):
    with pytest.raises(ZeroDivisionError), kind(f"{s3}/target") as path:
        (path / "inner" if path.is_dir() else path).write_text(f"new {1 / 0}")
    assert not storage.exists(f"{s3}/target")


def test_files_of_a_folder_are_replaced_and_removed_and_others_stay(s3):
    for content in ("one", "two"):
        with storage.atomic_folder(f"{s3}/folder", last="last") as path:
            (path / content).write_text(content)
            (path / "last").write_text(content)
    assert storage.names(f"{s3}/folder") == ["last", "one", "two"]
    assert storage.read_bytes(f"{s3}/folder/last") == b"two"
    storage.write_json(f"{s3}/folder/notes/mine", 1)
    assert not storage.remove_own_folder(f"{s3}/folder", ["last", "one", "two"])
    assert storage.names(f"{s3}/folder") == ["last", "notes", "one", "two"]
    storage.remove_file(f"{s3}/folder/notes/mine")
    assert storage.remove_own_folder(f"{s3}/folder", ["last", "one", "two"])
    assert storage.names(f"{s3}/folder") == []


def test_what_another_process_writes_is_seen_at_once(s3):
    assert not storage.exists(f"{s3}/folder/new")
    assert storage.names(f"{s3}/folder") == []
    bucket, _, key = s3.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{key}/folder/new", Body=b"1")
    assert storage.names(f"{s3}/folder") == ["new"]
    assert storage.exists(f"{s3}/folder/new")


def test_a_local_copy_is_the_folder_itself(s3):
    with storage.atomic_folder(f"{s3}/model") as path:
        (path / "weights").write_bytes(b"123")
    with storage.local_copy(f"{s3}/model") as copy:
        assert (copy / "weights").read_bytes() == b"123"
    assert not copy.exists()
    with pytest.raises(FileNotFoundError), storage.local_copy(f"{s3}/nothing"):
        pass


@pytest.fixture
def fetched(monkeypatch):
    """How many bytes each file that was opened to read has fetched."""
    sizes = []
    original = storage.open_to_read

    @contextlib.contextmanager
    def counting(*arguments):
        with original(*arguments) as file:
            fetch, total = file.cache.fetcher, 0

            def counted(start, end):
                nonlocal total
                total += end - start
                return fetch(start, end)

            file.cache.fetcher = counted
            yield file
            sizes.append(total)

    monkeypatch.setattr(storage, "open_to_read", counting)
    monkeypatch.setattr("facevae.attributes.hdf5.open_to_read", counting)
    return sizes


def test_the_images_of_a_row_group_are_all_that_travels(s3, fetched):
    rng = np.random.default_rng(0)
    count = 4 * shard_files.ROWS_PER_GROUP
    images = [rng.bytes(2_000) for _ in range(count)]
    labels = rng.integers(-1, 2, (count, 40)).astype(np.int8)
    rows = ShardRows([f"{i:01000d}" for i in range(count)], images, labels)
    shard = write_shard(s3, "train-00000", "train", rows, 64)
    read = read_images(s3, "train-00000", [2])
    assert read == images[2 * shard_files.ROWS_PER_GROUP : 3 * shard_files.ROWS_PER_GROUP]
    # Also the end of the file, which says where the columns lie.
    assert 256 * 2_000 < fetched[0] < 256 * 2_000 + 100_000
    assert fetched[0] < 0.8 * shard.bytes / 4
    whole = read_shard(s3, "train-00000")
    assert whole.images == images
    np.testing.assert_array_equal(whole.attributes, labels)
    for read_missing in (read_shard, read_images):
        with pytest.raises(UserError, match=r"no such shard: s3://.*make the shards again"):
            read_missing(s3, "train-00001")


def test_rows_of_a_vector_file_are_read_without_the_rest(s3, fetched):
    rng = np.random.default_rng(0)
    count, size = 20_000, 100
    batch = LatentBatch(
        [f"{i:06d}" for i in range(count)],
        ["train"] * count,
        rng.normal(size=(count, size)),
        np.ones((count, 1), np.int8),
    )
    vectors = AttributeVectors(
        names=("Smiling",),
        vectors=np.ones((1, size), np.float32),
        positive_count=np.array([9]),
        negative_count=np.array([9]),
        standard_errors=np.ones((1, size), np.float32),
        valid=np.array([True]),
        method="mean_difference",
        model_digest="",
        shards_digest="",
        labels_digest="",
    )
    uri = f"{s3}/attribute_vectors.h5"
    logged = []
    write_hdf5(uri, vectors, [batch], count, lambda path: logged.append(path.read_bytes()))
    assert logged == [storage.read_bytes(uri)]  # from here, not fetched again
    np.testing.assert_array_equal(read_vectors(uri).vectors, vectors.vectors)
    np.testing.assert_array_equal(read_rows(uri, [7, 5]).latents, batch.latents[[7, 5]])
    whole = len(storage.read_bytes(uri))
    assert len(fetched) == 2
    assert max(fetched) < 0.4 * whole
    with pytest.raises(UserError, match="no attribute vectors at s3://"):
        read_vectors(f"{s3}/other.h5")


def test_a_bucket_is_never_made_by_mistake(s3):
    with pytest.raises(UserError, match=r"no bucket 'no-such-bucket'.*make it first"):
        storage.make_folder("s3://no-such-bucket/runs")
    names = [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]]
    assert "no-such-bucket" not in names
    storage.make_folder(f"{s3}/runs")


def test_a_store_that_cannot_be_reached_is_one_line(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for act in (storage.exists, storage.make_folder):
        with pytest.raises(
            UnreachableError, match=r"cannot reach s3://.*check the address"
        ) as failed:
            act(f"{s3}/file")
        assert "\n" not in str(failed.value)


def test_missing_keys_are_named_as_such(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"locate credentials.*keys in the environment"):
        storage.exists(f"{s3}/file")


def test_google_and_hugging_face_are_known_too():
    for scheme in ("gs", "hf"):
        assert fsspec.get_filesystem_class(scheme)
    storage.make_folder("hf://datasets/someone/faces/run")  # it has no buckets to check


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EBUSY, "Please reduce your request rate"), UnreachableError),
        (EndpointConnectionError(endpoint_url="http://s3"), UnreachableError),
        (TimeoutError(), UnreachableError),
        (OSError("Couldn't deserialize thrift: a damaged page"), OSError),
        (pyarrow.ArrowInvalid("Not a Parquet file"), pyarrow.ArrowInvalid),
        (UserError("it has gaps"), UserError),
    ],
)
def test_a_store_that_goes_while_a_file_is_read_is_no_damaged_file(s3, error, expected):
    with storage.atomic_file(f"{s3}/file") as path:
        path.write_bytes(b"content")
    with pytest.raises(expected) as raised, storage.open_to_read(f"{s3}/file") as file:
        _trip(file, error)
    assert type(raised.value) is expected


def _trip(file, error: Exception) -> None:
    assert file.read(3) == b"con"
    raise error


def test_a_shard_in_a_store_that_goes_is_not_called_damaged(s3, monkeypatch):
    row = ShardRows(["a.jpg"], [b"jpeg"], np.ones((1, 2), np.int8))
    write_shard(s3, "train-00000", "train", row, 64)
    assert read_shard(s3, "train-00000").images == [b"jpeg"]

    def go(self, start, end):
        raise OSError(errno.EIO, "We encountered an internal error")

    monkeypatch.setattr(S3File, "_fetch_range", go)
    with pytest.raises(UnreachableError, match=r"cannot reach s3://.*internal error"):
        read_images(s3, "train-00000")
