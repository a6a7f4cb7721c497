"""What the tests share: drawn faces in shards, and one Ray cluster a session."""

import os
from pathlib import Path

import pytest

from facevae import runtime
from facevae.config import ShardsConfig
from facevae.verbs.shards import shard_faces


def pytest_configure() -> None:
    """The tests speak to no cluster and no tracking server but their own."""
    for name in (
        "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI",
    ):  # fmt: skip
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def ray_cluster():
    """The session's Ray, started as a verb starts it."""
    import ray

    runtime.connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shards(ray_cluster, tmp_path_factory) -> Path:
    """A folder of shards: 600 drawn faces at 64 pixels, in shards of 100."""
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
