"""A schedule is a value: the same for a seed, and a few in a row have every kind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.schedule import COMMANDS, FAULTS, FILES, KINDS, ROUND, kinds, schedule

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, 40, ROUND))
def test_some_schedules_in_a_row_have_every_kind(first):
    seeds = range(first, first + ROUND)
    assert {kind for seed in seeds for kind in kinds(seed)} == {*KINDS}
    for seed in seeds:
        assert sorted(fault.kind for fault in schedule(seed)) == sorted(kinds(seed))
        assert len(schedule(seed)) == FAULTS


def test_a_schedule_is_a_function_of_its_seed_in_every_process():
    program = (
        "from tests.chaos.schedule import *\nfor s in range(30): print(*schedule(s), sep='\\n')"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == [str(fault) for seed in range(30) for fault in schedule(seed)]
    assert len({tuple(schedule(seed)) for seed in range(30)}) == 30


def test_faults_wait_for_files_that_are_written_and_come_in_order():
    for seed in range(200):
        faults = schedule(seed)
        commands = [COMMANDS.index(fault.command) for fault in faults]
        assert commands == sorted(commands)
        for fault in faults:
            assert 1 <= fault.number <= FILES[fault.command][fault.file]
