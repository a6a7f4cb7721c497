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

from facevae.errors import UserError
from facevae.ray_cluster.address import REMEDY, VARIABLE, check_address, is_this_machine

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
PATH_VARIABLES = (
    *("TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN_PATH", "HOME", "XDG_CACHE_HOME", "TORCH_HOME"),
    *("HF_HOME", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_CONFIG_FILE"),
    "AWS_SHARED_CREDENTIALS_FILE",
)
"""variables that name a file or folder; processes that Ray starts have another working directory"""
SHORT_FOLDER = "/tmp"
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.10"
"""the longest of Ray's sockets, below the folder for temporary files"""
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""the longest path that the system allows for a socket"""
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

    Raises:
        UserError: no cluster answers at RAY_ADDRESS, or it does not take this process; or there is
            no folder for Ray's sockets.
    """
    if ray.is_initialized():
        return
    os.environ.update(TRAIN_ENVIRONMENT)
    for name in PATH_VARIABLES:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not is_this_machine():
        _attach(options)
    else:
        # A dashboard is for clusters; on one machine it costs seconds and memory. What the
        # processes inherit needs no runtime environment, which starts Python twice for each.
        # Without "local" Ray attaches to whatever cluster was started on this machine last.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # no node leaves here
        shorten_temporary_folder()
        with _few_words(), _variables(ALLOCATOR_ENVIRONMENT):
            ray.init("local", include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _attach(options: Mapping[str, Any]) -> None:
    """Attach to the cluster of RAY_ADDRESS."""
    address = os.environ[VARIABLE]
    check_address(address)
    environment = {"env_vars": ALLOCATOR_ENVIRONMENT | TRAIN_ENVIRONMENT}
    try:
        with _few_words():
            ray.init(runtime_env=environment, **options)
    # Of a cluster that goes away, of another version of Ray, and of a token that is missing.
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot attach to {VARIABLE} {address} ({reason}): {REMEDY}") from error


def shorten_temporary_folder() -> None:
    """Have Ray's files elsewhere where the folder for temporary files has too long a name.

    Raises:
        UserError: that other folder cannot be written to.
    """
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    given = os.environ.get(name) or SHORT_FOLDER
    if len(os.fsencode(given + SOCKET)) <= SOCKET_BYTES:
        return
    folder = SHORT_FOLDER
    if Path(folder, "ray").exists() and not os.access(Path(folder, "ray"), os.W_OK):
        folder = f"{folder}/ray-{os.getuid()}"  # beside that of another user
    if not os.access(SHORT_FOLDER, os.W_OK):
        raise UserError(
            f"{name} {given} is too long for Ray's sockets, and {SHORT_FOLDER} cannot be written "
            f"to: set RAY_TMPDIR to a folder of {SOCKET_BYTES - len(SOCKET)} characters at most"
        )
    os.environ["RAY_TMPDIR"] = folder


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
