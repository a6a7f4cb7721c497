"""Ray on an existing cluster, or on this machine, with the settings that the program needs."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.data  # before the levels of its loggers are set, which it sets itself

# glibc returns every large tensor's pages to the kernel and faults them in again at each step;
# keeping them makes CPU training about twice as fast. It must be set before a process starts.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
_MALLOPT = {-3: (1 << 31) - 1, -1: (1 << 31) - 1, -2: 1 << 28, -8: 1}
"""the same for a process that runs: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX"""
LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
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


def is_this_machine() -> bool:
    """Whether `connect` starts Ray on this machine, for this process alone."""
    return "RAY_ADDRESS" not in os.environ


def keep_freed_memory() -> None:
    """Have this process keep what it frees, as those that Ray starts do; glibc's allocator only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def connect() -> None:
    """Attach to the cluster of RAY_ADDRESS (as inside a job), or start Ray on this machine.

    Token authentication is on, Ray's default: its ports listen on all of the machine's addresses,
    and every connection needs the token.
    """
    if ray.is_initialized():
        return
    os.environ.update(TRAIN_ENVIRONMENT)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not is_this_machine():
        with _few_words():
            ray.init(runtime_env={"env_vars": ALLOCATOR_ENVIRONMENT | TRAIN_ENVIRONMENT}, **options)
    else:
        # A dashboard is for clusters; on one machine it costs seconds and memory. What the
        # processes inherit needs no runtime environment, which starts Python twice for each.
        # Without "local" Ray attaches to whatever cluster was started on this machine last.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # no node leaves here
        with _few_words(), _variables(ALLOCATOR_ENVIRONMENT):
            ray.init("local", include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _few_words() -> Iterator[None]:
    """A block that starts Ray's native part, which tells of nothing less than its own end then.

    Else it calls an error what Ray Data does with every pool of actors. It also tells of its level,
    whatever that is, so that the block has no standard error.
    """
    if LOG_LEVEL in os.environ:
        yield
        return
    sys.stderr.flush()
    standard_error = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with _variables({LOG_LEVEL: "fatal"}):
            yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


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
