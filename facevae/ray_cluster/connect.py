"""Ray on an existing cluster, or on this machine, with the settings that the program needs."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

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
# What Ray raises in the driver when a node or a process goes that one of its own actors was on.
# The second is of one that Ray Data keeps for all drivers, on the node of the first that came.
LOST_PROCESS = (
    ray.exceptions.RayActorError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)


def connect() -> None:
    """Attach to the cluster of RAY_ADDRESS (as inside a job), or start Ray on this machine.

    Token authentication is on, Ray's default: its ports listen on all of the machine's addresses,
    and every connection needs the token.
    """
    if ray.is_initialized():
        return
    attaches = "RAY_ADDRESS" in os.environ
    os.environ.update(TRAIN_ENVIRONMENT)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if attaches:
        ray.init(runtime_env={"env_vars": ALLOCATOR_ENVIRONMENT | TRAIN_ENVIRONMENT}, **options)
    else:
        # A dashboard is for clusters; on one machine it costs seconds and memory. What the
        # processes inherit needs no runtime environment, which starts Python twice for each.
        # Without "local" Ray attaches to whatever cluster was started on this machine last.
        with _variables(ALLOCATOR_ENVIRONMENT):
            ray.init("local", include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """A block in which the environment has these variables too."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


@contextlib.contextmanager
def errors_left_out() -> Iterator[None]:
    """A block whose Ray Data jobs go on without the rows whose task raised an error.

    A task whose process or node dies is run again, as always, and without end: who wants an end
    counts (`runs/retries.py`).
    """
    context = ray.data.DataContext.get_current().copy()
    context.max_errored_blocks = -1
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it prints the traceback of each
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)
