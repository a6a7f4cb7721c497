"""What the tests share: synthetic faces in shards, and one Ray cluster per session."""

import os
import uuid
from pathlib import Path

import boto3
import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer

from facevae.commands.shards import shard_faces
from facevae.config import ShardsConfig
from facevae.ray_cluster.connect import connect
from tests.gcs_server import gcs_server


def pytest_configure() -> None:
    """The tests speak to no cluster and no tracking server but their own."""
    for name in list(os.environ):
        if name.startswith(("RAY_A", "MLFLOW_TRACKING", "AWS_")):
            os.environ.pop(name)
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it asks Google about buckets


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's random weights are the same each time, so that it passes each time or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def s3_endpoint():
    """The address of an S3 server of this process."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint, monkeypatch):
    """The URI of an empty place in a bucket, with its keys in the environment."""
    settings = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    clear = fsspec.get_filesystem_class("s3").clear_instance_cache
    clear()
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}/place"
    clear()


@pytest.fixture
def gcs_objects(monkeypatch):
    """What a Google Cloud Storage of this process holds; its address is in the environment."""
    clear = fsspec.get_filesystem_class("gs").clear_instance_cache
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    with gcs_server() as (address, objects):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        clear()
        yield objects
    clear()


@pytest.fixture
def gcs(gcs_objects):
    """The URI of an empty place in a bucket of Google Cloud Storage."""
    return "gs://bucket/place"


@pytest.fixture(scope="session")
def ray_cluster():
    """The session's Ray, started as a command starts it."""
    import ray

    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shards(ray_cluster, tmp_path_factory) -> Path:
    """A folder of shards: 600 synthetic faces at 64 pixels, in shards of 100."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    shard_faces(
        ShardsConfig(
            output=str(folder),
            drawn={"count": 600, "seed": 3},
            sharding={"image_size": 64, "images_per_shard": 100},
            tracking={"system_metrics": False},
        )
    )
    return folder
