"""Three workers that go on from a checkpoint take the steps of three that were never stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RANKS = 3
DRIVER = Path(__file__).parents[2] / "drivers" / "resumed_ranks.py"


def test_a_step_after_a_resume_has_the_bits_of_one_that_nothing_interrupted(tmp_path):
    command = [sys.executable, DRIVER, str(tmp_path), str(RANKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    uninterrupted, resumed = done.stdout.split()
    assert resumed == uninterrupted
