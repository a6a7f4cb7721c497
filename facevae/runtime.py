"""The Ray cluster that the verbs run on: an existing one, or this machine."""

import json
import logging
import os
from typing import NamedTuple

import ray

# glibc returns every large tensor's pages to the kernel and faults them in again at each step;
# keeping them makes CPU training about twice as fast. It must be set before a process starts.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
# Ray Train's controller polls its workers at this interval; 2 s, the default, delays checkpoints.
TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


class Node(NamedTuple):
    """The logical resources of one node."""

    cpus: float
    gpus: float


def connect() -> None:
    """Attach to the cluster of RAY_ADDRESS (as inside a job), or start Ray on this machine.

    Ray's own default holds: token authentication on, nothing listening beyond loopback.
    """
    if ray.is_initialized():
        return
    os.environ.update(TRAIN_ENVIRONMENT)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    attaches = "RAY_ADDRESS" in os.environ
    ray.init(
        # Without "local" Ray attaches to whatever cluster was started on this machine last.
        address=None if attaches else "local",
        runtime_env={"env_vars": {**ALLOCATOR_ENVIRONMENT, **TRAIN_ENVIRONMENT}},
        log_to_driver=False,
        logging_level=logging.ERROR,
        # A dashboard is for clusters; on one machine it costs seconds and memory.
        include_dashboard=None if attaches else False,
    )
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def nodes() -> list[Node]:
    """The logical resources of every living node."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


def submission_id() -> str | None:
    """The name of the Ray job that this process is the driver of; none outside a job.

    Ray's job supervisor leaves it there for the driver, and for the driver alone: workers are told.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    name = job.get("metadata", {}).get("job_submission_id")
    return None if name is None else str(name)
