"""One driver at a time: a lease file in the output folder, kept fresh while its driver lives.

No clock of another machine is trusted: a lease whose process is on this machine is judged by that
process, and any other by whether it changes while we look.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from facevae import storage
from facevae.errors import UserError
from facevae.progress import say
from facevae.swap import compare_and_swap

NAME = "driver.json"
REFRESH_SECONDS = 10.0
STALE_SECONDS = 60.0
"""a lease that does not change for this long is that of a dead driver"""
DYING_SECONDS = 2.0


@dataclass(frozen=True)
class Lease:
    """Who drives an output folder."""

    token: str
    """another for each driver"""
    verb: str
    job: str | None
    """the Ray job that the driver belongs to"""
    host: str
    machine: str
    """tells machines, boots of one, and containers apart"""
    pid: int
    process_started: float
    since: str
    refreshed: int = 0
    ended: str | None = None

    @classmethod
    def of_this_process(cls, verb: str, job: str | None) -> "Lease":
        """A lease for what this process is about to do."""
        return cls(
            uuid.uuid4().hex,
            verb,
            job,
            socket.gethostname(),
            _this_machine(),
            os.getpid(),
            psutil.Process().create_time(),
            _now(),
        )

    def to_bytes(self) -> bytes:
        """The lease as JSON."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.verb}{job} (process {self.pid} on {self.host}, since {self.since})"


@contextlib.contextmanager
def one_driver(folder: str, verb: str, job: str | None = None) -> Iterator[None]:
    """A block that runs in one program at a time for an output folder.

    A driver that was killed blocks the next one on the same machine not at all, and on another one
    for STALE_SECONDS. Who finds, on waking up from a longer pause, that another driver took over
    stops with an error.

    Args:
        folder: the output folder, which exists.
        verb: what is to be done there.
        job: the Ray job that this process belongs to.

    Raises:
        UserError: another driver is at work there; names it.
    """
    uri = storage.join(folder, NAME)
    keeper = _Keeper(uri, _take(folder, uri, Lease.of_this_process(verb, job)))
    keeper.start()
    try:
        yield
    except BaseException:
        if keeper.lost_to is None:
            raise
    finally:
        keeper.stop()
    if keeper.lost_to is not None:
        raise UserError(
            f"this driver of {folder} paused for so long that another took over: "
            f"{keeper.lost_to}; let that one finish"
        )


def _take(folder: str, uri: str, mine: Lease) -> Lease:
    expected = b""
    while (found := compare_and_swap(uri, expected, mine.to_bytes())) != expected:
        holder = _parse(found)
        if holder is not None and holder.ended is None and _lives(uri, found, holder):
            raise UserError(
                f"another driver is at work on {folder}: {holder}; wait for it or stop it, or "
                "choose another --output"
            )
        expected = found
    return mine


def _parse(content: bytes) -> Lease | None:
    """The lease in a file; none: what a driver left that died while it wrote."""
    try:
        value = json.loads(content)
        if not isinstance(value["pid"], int):
            return None
        return Lease(**{field.name: value[field.name] for field in fields(Lease)})
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _lives(uri: str, content: bytes, holder: Lease) -> bool:
    if holder.machine == _this_machine():
        return not _is_soon_gone(holder.pid, holder.process_started)
    say(f"waiting up to {STALE_SECONDS:.0f} s to see whether a driver still lives: {holder}")
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        seen = storage.read_bytes(uri)
        if seen != content:
            now = _parse(seen)
            return now is not None and now.ended is None
    return False


def _is_soon_gone(pid: int, started: float) -> bool:
    """Whether a process is dead, or dies in the next moment: a large one takes a while to."""
    deadline = time.monotonic() + DYING_SECONDS
    while _process_lives(pid, started):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _process_lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # A number is given again; its processes' start times differ by more than clock adjustments.
        same = abs(process.create_time() - started) < 2
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class _Keeper:
    """Refreshes a lease in a thread, and stops the program if another driver has taken over."""

    def __init__(self, uri: str, lease: Lease) -> None:
        self._uri, self._lease = uri, lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._owner = threading.current_thread()
        self.lost_to: Lease | str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        if self.lost_to is None:
            # What it cannot say now, its process says by being gone.
            with contextlib.suppress(UserError, OSError):
                self._swap(replace(self._lease, ended=_now()))

    def _keep(self) -> None:
        while not self._stopped.wait(REFRESH_SECONDS):
            try:
                self._swap(replace(self._lease, refreshed=self._lease.refreshed + 1))
            except (UserError, OSError):
                continue  # a store that is away for a while is away for the other drivers too
            if self.lost_to is not None:
                self._interrupt()
                return

    def _swap(self, lease: Lease) -> None:
        expected, content = self._lease.to_bytes(), lease.to_bytes()
        found = compare_and_swap(self._uri, expected, content)
        if found != expected and _parse(found) is None:  # removed, or a write broke off
            expected, found = found, compare_and_swap(self._uri, found, content)
        holder = _parse(found)
        if found == expected or (holder is not None and holder.token == lease.token):
            self._lease = lease
        else:
            self.lost_to = holder or "another one"

    def _interrupt(self) -> None:
        # Waiting in C code, as Ray's calls do, is ended by a signal only, and that goes to the
        # main thread; in others the block runs to its end, and is then told.
        if self._owner is threading.main_thread() and self._owner.ident is not None:
            # A shell starts what runs in its background deaf to SIGINT.
            is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            chosen = signal.SIGTERM if is_deaf else signal.SIGINT
            signal.pthread_kill(self._owner.ident, chosen)


@functools.cache
def _this_machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):  # processes have other numbers in another container
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
