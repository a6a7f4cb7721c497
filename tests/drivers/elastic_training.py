"""`facevae train` on a head's address, whose workers wait for a node to go and to come back.

    elastic_training.py NOTES HEAD LOST_AT FOUND_AT SECONDS WORDS...

At step LOST_AT two workers leave files in the folder NOTES and wait for the file `lost` in it; at
step FOUND_AT one worker leaves a file and waits until Ray ends it, SECONDS at most. WORDS are those
of `facevae train`.
"""

import sys
import time
from functools import partial
from pathlib import Path

import ray
import ray.train

from facevae.cli import run_command
from facevae.commands import train
from facevae.training import launch
from tests.ray.noting import noting

NOTES, HEAD = Path(sys.argv[1]), sys.argv[2]
LOST_AT, FOUND_AT, SECONDS = map(int, sys.argv[3:6])


def at_step(step, rank):
    if step == LOST_AT and rank.world_size == 2:
        (NOTES / f"two-{rank.rank}").touch()
        while not (NOTES / "lost").exists():
            time.sleep(0.05)
    if step == FOUND_AT and rank.world_size == 1:
        (NOTES / "one").touch()
        time.sleep(SECONDS)


ray.init = partial(ray.init, _node_ip_address=HEAD)
ray.train.ScalingConfig = partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=1)
train.check_paths = lambda *_: None  # all nodes see this machine's disk
launch.train_worker = noting(NOTES, at_step)
sys.exit(run_command("train", sys.argv[6:]))
