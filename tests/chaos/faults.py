"""What makes a fault happen, and what heals it; only processes of the rehearsal cluster are hit."""

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from typing import NamedTuple

import psutil
from processes import Cluster, StartError, kill, running
from services import BUCKET, start_part

from tests.chaos.disk import Disk
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import FILES, Fault, Phase

LASTS_SECONDS = 15.0
"""when a state is over that the pipeline waits for, instead of writing what it is counted by"""
TITLES = {
    "writer": "ray::MapBatches(WriteShard)",
    "worker": "ray::RayTrainWorker",
    "actor": "ray::MapWorker",
}
"""what Ray calls the processes"""


class Fired(NamedTuple):
    """A fault that happened, and in which attempt."""

    fault: Fault
    attempt: int


class Injector:
    """Makes the faults of a schedule happen as the pipeline's writes are counted."""

    def __init__(
        self, cluster: Cluster, proxy: Proxy, disk: Disk, say: Callable[[str], None]
    ) -> None:
        """Takes what it strikes at, and where its lines go."""
        self._cluster, self._proxy, self._disk, self._say = cluster, proxy, disk, say
        self._lock = threading.Lock()
        self._healers: list[threading.Thread] = []
        self._starting = threading.Lock()
        self.begin("", ())
        proxy.told = self._told

    def begin(self, root: str, faults: Sequence[Fault]) -> None:
        """Count the writes below a folder of the bucket, from none on."""
        self._root, self.waiting = f"/{BUCKET}/{root}/", [*faults]
        self.fired: list[Fired] = []
        self.unhealed: list[str] = []
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._writes, self._over = 0, False
        self._attempt = 0
        self._driver: subprocess.Popen[bytes] | None = None

    def attempt(self, driver: subprocess.Popen[bytes], number: int) -> None:
        """From here on, this is the driver."""
        self._driver, self._attempt, self._over = driver, number, False

    def too_few(self) -> list[str]:
        """Files that were written less often than faults may wait for."""
        return [
            f"{command}: {self._counts[command, file, 'after']} of {count} {file} were written"
            for command, files in FILES.items()
            for file, count in files.items()
            if self._counts[command, file, "after"] < count
        ]

    def heal(self) -> None:
        """End every state that lasts, since the driver ended that was to get on with it."""
        with self._lock:  # whatever ended the driver is on record now
            self._over = True
        for healer in self._healers:
            healer.join()
        self._healers.clear()

    # --- on the proxy's threads ---

    def _told(self, path: str, phase: Phase) -> None:
        if not path.startswith(self._root):
            return
        command, _, rest = path.removeprefix(self._root).partition("/")
        if phase == "after":
            self._writes += 1
        with self._lock:
            for counted, files in FILES.items():
                for file in files:
                    if counted == command and fnmatch(rest, file):
                        self._counts[command, file, phase] += 1
            for fault in [each for each in self.waiting if self._is_due(each, command, phase)]:
                if self._strike(fault):
                    self.waiting.remove(fault)
                    self.fired.append(Fired(fault, self._attempt))
                    self._say(f"  {fault}")

    def _is_due(self, fault: Fault, command: str, phase: Phase) -> bool:
        counted = self._counts[fault.command, fault.file, fault.phase]
        return fault.command == command and fault.phase == phase and counted >= fault.number

    def _strike(self, fault: Fault) -> bool:
        """Make it happen; false if what it strikes at is not there yet."""
        match fault.kind:
            case "writer" | "worker" | "actor":
                return self._kill_one(TITLES[fault.kind], fault.choice)
            case "driver":
                return self._signal(signal.SIGKILL)
            case "stop":
                return self._signal(signal.SIGTERM)
            case "node":
                self._kill_part(f"worker-{1 + fault.choice % self._cluster.workers}", fault.amount)
            case "mlflow":
                self._kill_part("mlflow", fault.amount)
            case "disk":
                self._disk.fill()
                self._heal_when(self._has_asked(fault.amount), self._disk.free)
            case "s3-pause":
                process = self._process("s3")
                process.suspend()
                self._heal_when(self._has_asked(fault.amount), process.resume)
            case "s3-errors":
                self._proxy.fail(fault.amount, (500, 503)[fault.choice % 2])
                self._heal_when(lambda: not self._proxy.errors_left, lambda: self._proxy.fail(0))
        return True

    def _kill_one(self, title: str, choice: int) -> bool:
        """SIGKILL to one of the processes of the nodes that have the title."""
        found = []
        for part in self._cluster.parts.values():
            process = running(part) if part.name.startswith("worker-") else None
            with suppress(psutil.NoSuchProcess):
                children = process.children(recursive=True) if process else []
                found += [each for each in children if _title(each).startswith(title)]
        if not found:
            return False
        chosen = sorted(found, key=lambda each: each.pid)[choice % len(found)]
        with suppress(psutil.NoSuchProcess):
            chosen.kill()
            chosen.wait(10)
        return True

    def _signal(self, number: int) -> bool:
        if self._driver is None or self._driver.poll() is not None:
            return False
        os.kill(self._driver.pid, number)
        if number == signal.SIGKILL:
            with suppress(subprocess.TimeoutExpired):
                self._driver.wait(10)
        return True

    def _process(self, part: str) -> psutil.Process:
        process = running(self._cluster.part(part))
        assert process is not None, f"{part} does not run"
        return process

    def _kill_part(self, name: str, writes: int) -> None:
        with self._starting:  # one that is being started is killed when it has
            kill(self._cluster.part(name))

        def start() -> None:
            with self._starting:
                if running(self._cluster.part(name)) is None:
                    start_part(self._cluster, self._cluster.part(name))
                    self._say(f"  {name} is back")

        self._heal_when(self._has_written(writes), start)

    def _has_written(self, count: int) -> Callable[[], bool]:
        last = self._writes + count
        return lambda: self._writes >= last

    def _has_asked(self, count: int) -> Callable[[], bool]:
        last = self._proxy.requests + count
        return lambda: self._proxy.requests >= last

    def _heal_when(self, is_over: Callable[[], bool], heal: Callable[[], None]) -> None:
        """Heal in the background."""

        def run() -> None:
            ends = time.monotonic() + LASTS_SECONDS
            while not (self._over or is_over() or time.monotonic() > ends):
                time.sleep(0.02)
            try:
                heal()
            except StartError as error:
                self.unhealed.append(str(error))

        self._healers.append(threading.Thread(target=run, daemon=True))
        self._healers[-1].start()


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
