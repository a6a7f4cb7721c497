"""A command run as a user runs it, in a process of its own, and watched from outside."""

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import ray
import torch
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from facevae.errors import UserError
from facevae.runs.progress import SECONDS_VARIABLE

SAMPLING_SECONDS = 0.5


class StoreUse(NamedTuple):
    """Ray's object store, over all nodes, in bytes: in use now, and ever made and spilled."""

    used: int
    made: int
    spilled: int


class Step(NamedTuple):
    """What one line of progress says."""

    title: str
    done: int
    total: int
    unit: str
    note: str


class Moment(NamedTuple):
    """A line of progress, and when it came, in seconds after the start of the command."""

    seconds: float
    step: Step


class Watched(NamedTuple):
    """What a finished command was seen to do."""

    seconds: float
    moments: list[Moment]
    driver_bytes: int
    """most memory that its process had resident at a time"""
    worker_bytes: int
    """the same of the largest of Ray's worker processes on this machine"""
    store_peak: int
    store_made: int
    """bytes of all objects that it put into the store"""
    store_spilled: int
    gpu_utilisation: float
    """share of the time from the first progress on that this machine's GPUs were at work, 0 to 1; 0
    without any"""

    def of(self, title: str) -> list[Moment]:
        """The lines of one progress bar."""
        return [moment for moment in self.moments if moment.step.title == title]


def read_step(line: str) -> Step | None:
    """The step that a line of a log tells of; none if it is another line."""
    found = re.fullmatch(r"(\w[\w ]*): (\d+)/(\d+) (\w+)(?: (.*))?", line)
    if found is None:
        return None
    title, done, total, unit, note = found.groups(default="")
    return Step(title, int(done), int(total), unit, note)


def run_command(
    words: Sequence[str], at: Callable[[Moment, psutil.Process], None] | None = None
) -> Watched:
    """Run `facevae WORDS` on the Ray cluster that this process is attached to.

    Args:
        words: the command and its options.
        at: is called at every line of progress, with the process: it may end it.

    Raises:
        UserError: it failed by itself; with its last words.
    """
    before, started, lines = store_use(), time.perf_counter(), []
    moments: list[Moment] = []
    with _child(words) as process, _Sampler(process.pid) as sampler:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            step = read_step(lines[-1])
            if step is not None:
                if step.done > 0 and not any(moment.step.done for moment in moments):
                    sampler.gpu_utilisation.clear()  # of the start, where no GPU has work
                moments.append(Moment(time.perf_counter() - started, step))
                if at is not None:
                    at(moments[-1], psutil.Process(process.pid))
        process.wait()
    if process.returncode != 0 and not (at and process.returncode == -signal.SIGKILL):
        said = " / ".join(lines[-3:])
        raise UserError(f"facevae {words[0]} failed while it was measured: {said}")
    after = store_use()
    return Watched(
        time.perf_counter() - started,
        moments,
        sampler.driver_bytes,
        sampler.worker_bytes,
        sampler.store_peak,
        after.made - before.made,
        after.spilled - before.spilled,
        statistics.fmean(sampler.gpu_utilisation or [0.0]),
    )


@contextlib.contextmanager
def _child(words: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        SECONDS_VARIABLE: "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "facevae.cli", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()


def store_use() -> StoreUse:
    """What Ray's object store holds and has held."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    stats = get_memory_info_reply(state).store_stats
    return StoreUse(
        stats.object_store_bytes_used, stats.cumulative_created_bytes, stats.spilled_bytes_total
    )


class _Sampler:
    """Looks now and then at memory and GPUs for as long as its block lasts."""

    def __init__(self, driver: int) -> None:
        self.driver_bytes, self.worker_bytes, self.store_peak = 0, 0, 0
        self.gpu_utilisation: list[float] = []
        self._driver = driver
        self._since = time.time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLING_SECONDS):
            self.driver_bytes = max(self.driver_bytes, peak_bytes(self._driver))
            self.store_peak = max(self.store_peak, store_use().used)
            self.worker_bytes = max([self.worker_bytes, *_resident_bytes(self._since)])
            self.gpu_utilisation += gpu_utilisation()


def peak_bytes(process: int) -> int:
    """The most memory that a process had resident since it began its program; 0: it has ended.

    What `wait4` tells of a child counts its parent's memory too, from before the child's program.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # ended, waited for or not
        return 0


def gpu_utilisation() -> list[float]:
    """Of each GPU of this machine, the share of the last moment that it was at work, 0 to 1."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.utilization(number) / 100 for number in range(torch.cuda.device_count())]


def _resident_bytes(since: float) -> list[int]:
    """Of each process of Ray's on this machine that began to work since; titled like `ray::f`."""
    sizes = []
    for process in psutil.process_iter():
        try:
            is_worker = next(iter(process.cmdline()), "").startswith("ray::")
            if is_worker and process.create_time() > since:
                sizes.append(process.memory_info().rss)
        except psutil.Error:  # it has just ended
            continue
    return sizes
