"""One driver at a time: a numbered lock file in the output folder, made only if it is not there.

A driver that dies leaves its file; the next one takes over by making that of the next number, in
which one of several succeeds. The highest number holds the folder. No clock of another machine is
trusted: an owner on this machine is judged by its process, and any other by whether its file
changes while we look.
"""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from facevae.errors import UserError
from facevae.runs import storage
from facevae.runs.progress import log

NAME = re.compile(r"driver\.lock\.\d{6}")
OLD_NAME = "driver.json"
"""the lock of earlier versions, whose drivers may still be at work"""
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""a lock of another machine that does not change for this long is that of a dead driver"""
DYING_SECONDS = 2.0
"""a large process takes a while to die"""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    command: str
    job: str | None
    host: str
    machine: str
    pid: int
    process_started: float
    since: str
    token: str

    @classmethod
    def parse(cls, content: bytes | None) -> "Owner | None":
        """The owner in a lock file; none: it is gone, cut short, was given back, or is no lock."""
        try:
            value = json.loads(content or b"")
            if value.get("ended"):  # earlier versions left the file
                return None
            value["command"] = value.get("command", value.get("verb"))
            owner = cls(**{name: value[name] for name in cls.__dataclass_fields__})
            return owner if isinstance(owner.pid, int) else None
        except (ValueError, AttributeError, LookupError, RecursionError):
            return None

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.command}{job} (process {self.pid} on {self.host}, since {self.since})"

    def lives(self) -> bool:
        """Whether its process does; it is of this machine."""
        try:
            process = psutil.Process(self.pid)
            # A number is given again; start times differ by more than clock adjustments.
            is_same = abs(process.create_time() - self.process_started) < 2
            return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


@contextlib.contextmanager
def run_lock(folder: str, command: str, job: str | None = None) -> Iterator[None]:
    """A block that runs in one program at a time for an output folder.

    A driver that was killed blocks the next one on the same machine not at all, and on another one
    for STALE_SECONDS. Who finds, on waking up from a longer pause, that another driver took over
    stops with an error. Where a store cannot make a file only if it is not there, a warning says
    that nothing is locked.

    Args:
        folder: the output folder, which exists.
        command: what is to be done there.
        job: the Ray job that this process belongs to.

    Raises:
        UserError: another driver is at work there; names it.
    """
    process = (os.getpid(), psutil.Process().create_time())
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    host, token = socket.gethostname(), uuid.uuid4().hex
    lock = _take(folder, Owner(command, job, host, _this_machine(), *process, since, token))
    if lock is None:
        log(f"warning: this store has no locks: let no second driver write to {folder}")
        yield
        return
    lock.start()
    try:
        yield
    except BaseException:
        if lock.lost_to is None:
            raise
    finally:
        lock.release()
    if lock.lost_to is not None:
        raise UserError(
            f"this driver of {folder} paused for so long that another took over: {lock.lost_to}; "
            "let that one finish"
        )


class _Lock(threading.Thread):
    """Changes a lock file every few seconds; interrupts its owner if another driver took over."""

    def __init__(self, uri: str, owner: Owner) -> None:
        super().__init__(daemon=True)
        self._uri, self._owner = uri, owner
        self._released = threading.Event()
        self._is_main = threading.current_thread() is threading.main_thread()
        self.lost_to: Owner | str | None = None

    def run(self) -> None:
        beats = 0
        while self.lost_to is None and not self._released.wait(BEAT_SECONDS):
            beats += 1
            # A store that is away for a while is away for the other drivers too.
            with contextlib.suppress(UserError, OSError):
                if self._is_mine():
                    content = {**asdict(self._owner), "beats": beats}
                    storage.write_json(self._uri, content, fsync=False)
        if self.lost_to is not None and self._is_main:
            # Waiting in C code, as Ray's calls do, is ended by a signal only, and that goes to the
            # main thread; in others the block runs to its end, and is then told.
            is_deaf = (
                signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            )  # as in a shell's background
            number = signal.SIGTERM if is_deaf else signal.SIGINT
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def release(self) -> None:
        self._released.set()
        self.join()
        # What it cannot remove now is that of a dead process soon.
        with contextlib.suppress(UserError, OSError):
            if self.lost_to is None and self._is_mine():
                storage.remove_file(self._uri)

    def _is_mine(self) -> bool:
        last = _locks(storage.parent(self._uri))[-1:]
        if last != [self._uri]:
            newer = Owner.parse(_read(last[0])) if last else None
            self.lost_to = newer or "one that has ended since"
        return self.lost_to is None


def _take(folder: str, mine: Owner) -> _Lock | None:
    """The lock of a folder; none: its store cannot make a file only if it is not there."""
    if not storage.is_local(folder) and not folder.startswith(storage.BUCKETS):
        return None
    old, content = storage.join(folder, OLD_NAME), json.dumps(asdict(mine), indent=1).encode()
    if storage.exists(old):
        _refuse_if_held(folder, old)
        storage.remove_file(old)
    while True:
        found = _locks(folder)
        for each in found[-1:]:
            _refuse_if_held(folder, each)
        number = int(found[-1][-6:]) + 1 if found else 1
        uri = storage.join(folder, f"driver.lock.{number:06d}")
        # A request whose answer was lost is sent again, and finds itself in its way.
        if not (_create(uri, content) or Owner.parse(_read(uri)) == mine):
            continue
        if _create(uri, content):  # the store takes no notice of the condition
            storage.remove_file(uri)
            return None
        if set(_locks(folder)) <= {*found, uri}:
            for each in found:
                storage.remove_file(each)
            return _Lock(uri, mine)
        storage.remove_file(uri)  # another took the folder since it was looked at


def _locks(folder: str) -> list[str]:
    """The lock files of a folder; the last one holds it."""
    names = storage.names(folder)
    return [storage.join(folder, name) for name in names if NAME.fullmatch(name)]


def _read(uri: str) -> bytes | None:
    """The content of a lock file, if it is there."""
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None


def _create(uri: str, content: bytes) -> bool:
    """Make a file if it is not there; returns whether it was made."""
    filesystem, path = storage.filesystem_of(uri)
    if storage.is_local(uri):
        with storage.writing_to(uri), contextlib.suppress(FileExistsError):
            with Path(path).open("xb") as file:
                file.write(content)
            return True
        return False
    with storage.translate_errors(uri):
        try:
            filesystem.pipe_file(path, content, mode="create")
        except OSError as error:  # of another kind in each store
            if error.errno == errno.ENOSYS:
                filesystem.pipe_file(path, content)
            elif filesystem.exists(path):
                return False
            else:
                raise
    return True


def _refuse_if_held(folder: str, uri: str) -> None:
    """Returns if the driver of a lock file is dead, or dies in the next moment."""
    content = now = _read(uri)
    owner = Owner.parse(content)
    if content is None or (owner is None and uri.endswith(OLD_NAME)):
        return
    is_here = owner is not None and owner.machine == _this_machine()
    seconds = DYING_SECONDS if is_here else STALE_SECONDS
    if not is_here:
        log(f"waiting up to {seconds:.0f} s to see whether a driver still lives: {owner or uri}")
    ends = time.monotonic() + seconds
    while now == content and time.monotonic() < ends:
        if owner is not None and is_here and not owner.lives():
            return
        time.sleep(min(1.0, seconds / 20))
        now = _read(uri)
    owner = Owner.parse(now)
    if owner is None or (now == content and not is_here):
        return
    raise UserError(
        f"another driver is at work on {folder}: {owner}; wait for it or stop it, or choose "
        "another --output"
    )


def _this_machine() -> str:
    """Tells machines, boots of one, and containers apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):  # processes have other numbers in another container
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
