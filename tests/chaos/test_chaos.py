"""Four schedules that have every kind of fault between them; `make chaos` runs more."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.chaos.schedule import FAULTS, KINDS, ROUND

REPOSITORY = Path(__file__).parents[2]
SEED = 2952
"""of a round whose schedules strike few verbs each, so that they are quick in brief"""
SECONDS = 1_100

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the nodes need addresses of 127.0.0.0/8"
)


@pytest.mark.timeout(SECONDS + 60)  # five minutes where nothing else takes the cores
def test_what_dies_stands_still_or_is_full_changes_nothing():
    words = ["--schedules", str(ROUND), "--seed", str(SEED), "--brief"]
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
    assert {kind for kind in KINDS if counts[kind] == "0"} == left_out
    assert int(counts["all"]) >= ROUND * FAULTS - 2
    started = [p for p in psutil.process_iter(["pid", "cmdline"]) if p.pid not in before]
    assert not [p for p in started if "facevae-chaos-" in " ".join(p.info["cmdline"] or [])]
