"""Every process of a job keeps the memory that it frees, whoever started the cluster."""

import os
import subprocess
import sys
from pathlib import Path

import ray

from facevae.ray_cluster.connect import ALLOCATOR_ENVIRONMENT

ATTACHED = Path(__file__).parents[1] / "drivers" / "attached_job.py"


def test_on_this_machine_processes_inherit_it_and_need_no_environment_of_their_own(ray_cluster):
    def settings() -> dict:
        return {name: os.environ.get(name) for name in ALLOCATOR_ENVIRONMENT}

    assert ray.get(ray.remote(settings).remote()) == ALLOCATOR_ENVIRONMENT
    assert not ray.get_runtime_context().runtime_env
    assert not ALLOCATOR_ENVIRONMENT.keys() & os.environ.keys()  # of the driver


def test_on_another_cluster_the_job_brings_it(ray_cluster):
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        [sys.executable, ATTACHED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stderr
