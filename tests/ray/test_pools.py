"""Pools on real raylets: work goes where the labels say, and anywhere where there are none.

Each scene is a cluster of its own, in a process and a folder of its own, beside the session's.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "drivers" / "pools.py"


@pytest.fixture
def scene(tmp_path):
    """Runs the scene on a head and a node of each pool; what it found."""
    # Its own: drivers without an address attach to the newest cluster of a folder of Ray's. And
    # short: sockets allow paths of 107 characters only.
    ray_folder = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_TMPDIR": ray_folder,
    }

    def run(*pools: str) -> dict[str, list]:
        done = subprocess.run(
            [sys.executable, DRIVER, str(tmp_path), json.dumps(pools)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        # What workers print may come after it.
        return json.loads(next(line for line in done.stdout.splitlines() if line[:1] == "{"))

    yield run
    shutil.rmtree(ray_folder, ignore_errors=True)


def test_work_goes_to_its_pool(scene):
    found = scene("gpu", "data")
    assert sorted(found["nodes"], key=str) == [
        [2, 0, "data", True], [2, 0, None, True], [2, 1, "gpu", True],
    ]  # fmt: skip
    for decoding in ("WriteShard", "ReadWindow", "EncodeShard, CPU"):
        assert found[decoding] == ["data"], decoding
    assert found["EncodeShard, GPU"] == ["gpu"]
    assert found["workers"] == ["gpu", "gpu"]
    assert found["to come"] == [[2, 1, "gpu"]]  # one of two is here, and the one of data


@pytest.mark.long  # the session's cluster, where all other tests run, has no pools either
def test_without_pools_all_work_runs_anywhere(scene):
    found = scene()
    for work in ("WriteShard", "ReadWindow", "EncodeShard, CPU"):
        assert found[work] == ["None"], work
    assert set(found["workers"]) == {"None"}
    assert found["to come"] == [[2, 1, "gpu"], [2, 1, "gpu"], [2, 0, "data"]]
