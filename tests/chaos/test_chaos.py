"""Schedules of the faults that no other test injects; `make chaos` runs every kind.

Killed writers, workers, actors, nodes and drivers, and SIGTERM, are in `tests/ray`; the MLflow
server is killed in `tests/unit/tracking` and in the rehearsal.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.chaos.schedule import FAULTS, KINDS

REPOSITORY = Path(__file__).parents[2]
STORE_AND_DISK = {"s3-pause", "s3-errors", "disk"}
SECONDS = 1_100

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the nodes need addresses of 127.0.0.0/8"
)


@pytest.mark.timeout(SECONDS + 60)  # two or four minutes where nothing else takes the cores
@pytest.mark.parametrize(
    ("seed", "schedules", "kinds"),
    [
        pytest.param(17538, 1, STORE_AND_DISK, marks=pytest.mark.long),  # all while it trains
        pytest.param(
            3308, 2, STORE_AND_DISK | {"writer", "node", "mlflow"}, marks=pytest.mark.long
        ),
    ],
)
def test_what_dies_stands_still_or_is_full_changes_nothing(seed, schedules, kinds):
    words = ["--schedules", str(schedules), "--seed", str(seed), "--brief"]
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY}/cluster/rehearsal"
    before = {*psutil.pids()}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos.chaos", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]
    counts = dict(re.findall(r"^([\w-]+) +(\d+) +\d+", ran.stdout, re.MULTILINE))
    left_out = {*re.findall(r"^([\w-]+) .*; left out: .+$", ran.stdout, re.MULTILINE)}
    assert left_out <= {"disk"}
    assert {kind for kind in KINDS if counts[kind] == "1"} == kinds - left_out
    assert int(counts["all"]) == schedules * FAULTS - len(left_out)
    started = [p for p in psutil.process_iter(["pid", "cmdline"]) if p.pid not in before]
    assert not [p for p in started if "facevae-chaos-" in " ".join(p.info["cmdline"] or [])]
