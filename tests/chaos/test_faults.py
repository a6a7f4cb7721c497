"""The proxy and the injector: what they count, when they strike, and what they leave alone."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import boto3
import fsspec
import pytest
import requests
from botocore.config import Config

from facevae.runs import storage
from tests.chaos.disk import Disk
from tests.chaos.faults import Injector
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Fault

LOGIN = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


@pytest.fixture
def proxy(s3_endpoint):
    made = Proxy(s3_endpoint)
    yield made
    made.close()


@pytest.fixture
def bucket(proxy, s3_endpoint):
    """Puts, gets and lists through the proxy."""
    boto3.client("s3", endpoint_url=s3_endpoint, **LOGIN).create_bucket(Bucket="facevae")
    once = Config(retries={"total_max_attempts": 1})
    return boto3.client("s3", endpoint_url=proxy.address, config=once, **LOGIN)


def put(bucket, key: str, content: bytes = b"x") -> None:
    bucket.put_object(Bucket="facevae", Key=key, Body=content)


def keys(bucket, prefix: str) -> list[str]:
    listed = bucket.list_objects_v2(Bucket="facevae", Prefix=prefix)
    return [each["Key"] for each in listed.get("Contents", [])]


def test_the_proxy_passes_everything_on_and_tells_of_writes(proxy, bucket):
    told = []
    proxy.told = lambda path, phase: told.append((path, phase))
    content = bytes(range(256)) * 1000
    put(bucket, "passed/a b+c", content)
    assert bucket.get_object(Bucket="facevae", Key="passed/a b+c")["Body"].read() == content
    assert bucket.head_object(Bucket="facevae", Key="passed/a b+c")["ContentLength"] == 256_000
    assert keys(bucket, "passed/") == ["passed/a b+c"]
    assert [phase for _, phase in told] == ["before", "after"]
    assert proxy.requests == 4


@pytest.mark.parametrize("status", [500, 503])
def test_the_proxy_fails_as_many_requests_as_it_is_told(proxy, bucket, status):
    proxy.fail(2, status)
    for _ in range(2):
        with pytest.raises(bucket.exceptions.ClientError) as caught:
            put(bucket, f"failed/{status}")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert keys(bucket, f"failed/{status}") == []
    put(bucket, f"failed/{status}")
    assert keys(bucket, f"failed/{status}") == [f"failed/{status}"]


def test_a_write_whose_writer_dies_before_it_is_not_stored(proxy, bucket):
    gone = threading.Event()
    proxy.told = lambda _path, phase: phase == "after" or gone.wait(20)
    program = f"import requests; requests.put('{proxy.address}/facevae/broken/a', data=b'x')"
    writer = subprocess.Popen([sys.executable, "-c", program])
    while proxy.requests < 1:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    gone.set()
    time.sleep(0.2)
    assert keys(bucket, "broken/") == []


def test_a_fault_strikes_the_driver_at_its_count_and_not_before(proxy, bucket):
    said, cluster = [], SimpleNamespace(parts={}, workers=2)
    injector = Injector(cluster, proxy, None, said.append)
    fault = Fault("driver", "shards", "records/*.json", 2, "after")
    waiting = Fault("writer", "shards", "records/*.json", 1, "after")  # there is no such process
    injector.begin("seed-1", [waiting, fault])
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    injector.attempt(driver, 1)
    try:
        put(bucket, "seed-1/shards/records/a.json")
        put(bucket, "seed-1/shards/data/a.json")
        put(bucket, "seed-2/shards/records/a.json")
        assert driver.poll() is None
        put(bucket, "seed-1/shards/records/b.json")
        assert driver.wait(10) == -9
        assert [each.fault for each in injector.fired] == [fault]
        assert injector.waiting == [waiting]
        assert said == [f"  {fault}"]
        assert "shards: 0 of 12 data/*.parquet were written" in injector.too_few()
    finally:
        driver.kill()


def test_errors_of_s3_end_with_the_driver_at_the_latest(proxy, bucket):
    injector = Injector(SimpleNamespace(parts={}, workers=2), proxy, None, lambda line: None)
    injector.begin("seed-1", [Fault("s3-errors", "shards", "run.json", 1, "after", 5)])
    put(bucket, "seed-1/shards/run.json")
    assert requests.get(proxy.address, timeout=5).status_code == 500
    injector.heal()
    assert requests.get(proxy.address, timeout=5).status_code == 200


@pytest.fixture
def through_the_proxy(proxy, s3, monkeypatch):
    """The URI of an empty place in a bucket, whose store is reached through the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return s3


def write_and_read(place: str) -> None:
    """Files and folders, as all commands write and read them."""
    for number in range(2):
        with storage.atomic_folder(f"{place}/folder", last="last") as folder:
            (folder / "first").write_text(f"{number}")
            (folder / "last").write_text("end")
        storage.write_json(f"{place}/file.json", number)
        assert storage.read_json(f"{place}/file.json") == number
        assert storage.read_bytes(f"{place}/folder/first") == f"{number}".encode()
    assert storage.names(f"{place}/folder") == ["first", "last"]


def test_a_store_that_stands_still_is_waited_for(proxy, through_the_proxy):
    stood: list[str] = []

    def stand_still(path: str, phase: str) -> None:
        if phase == "before":
            stood.append(path)
            time.sleep(1)

    proxy.told = stand_still
    write_and_read(through_the_proxy)
    assert len(stood) == 6


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_answers_errors_is_asked_again(proxy, through_the_proxy, status):
    proxy.fail(3, status)
    write_and_read(through_the_proxy)
    assert proxy.errors_left == 0


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path):
    disk = Disk(tmp_path / "disk")
    if disk.reason:
        pytest.skip(disk.reason)
    try:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "a").write_bytes(b"x" * 10_000)
        disk.free()
        (disk.folder / "a").write_bytes(b"x" * 10_000)
        disk.clean()
        assert not [*disk.folder.iterdir()]
    finally:
        disk.end()
    assert not disk.folder.exists()
