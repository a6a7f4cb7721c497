"""`facevae train` whose own workers stop it, kill one of themselves, and kill it.

    interrupted_training.py NOTES TERMINATED_AT WORKER_KILLED_AT DRIVER_KILLED_AT NOTICE_AT WORDS...

NOTES is a folder, where each of it is marked, so that it happens once in all attempts; the steps at
which it happens are counted from 1; WORDS are those of `facevae train`.
"""

import os
import signal
import sys
import time
from pathlib import Path

from facevae.cli import run_command
from facevae.training import launch
from tests.ray.noting import noting

DRIVER, NOTES = os.getpid(), Path(sys.argv[1])
TERMINATED_AT, WORKER_KILLED_AT, DRIVER_KILLED_AT, NOTICE_AT = map(int, sys.argv[2:6])


def once(name, pid, number):
    if not (NOTES / name).exists():
        (NOTES / name).write_text(str(time.time()))
        os.kill(pid, number)


def at_step(step, rank):
    if step == TERMINATED_AT and rank.rank == 0:
        once("terminated", DRIVER, signal.SIGTERM)
    if step == WORKER_KILLED_AT and rank.rank == 1:
        once("worker", os.getpid(), signal.SIGKILL)
    if step == DRIVER_KILLED_AT and rank.rank == 0:
        once("driver", DRIVER, signal.SIGKILL)
    if step == NOTICE_AT and rank.rank == 0:
        (NOTES / "notice").touch()
        time.sleep(3)


def draining_nodes():
    return frozenset(["spot"] if (NOTES / "notice").exists() else [])


launch.train_worker, launch.draining_nodes = noting(NOTES, at_step), draining_nodes
sys.exit(run_command("train", sys.argv[6:]))
