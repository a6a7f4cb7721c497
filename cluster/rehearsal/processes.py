"""Processes that outlive the program that started them, remembered in a file."""

import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests

DATA_PARENT, DATA_PREFIX = "/tmp", "facevae-"
NO_STATE: dict[str, Any] = {"parts": [], "environment": {}, "workers": 0, "data": "."}


class StartError(Exception):
    """What went wrong, in one line."""


@dataclass(frozen=True)
class Part:
    """A process of the cluster, and how to start it again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    """what it has beside the cluster's own"""
    user: int | None
    pid: int
    created: float
    """the time of its start tells it from a later process of the same number"""


class Cluster:
    """The processes of a rehearsal cluster, remembered in `cluster.json` of its folder."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder; a cluster that is up is read from there.

        Raises:
            StartError: its `cluster.json` is of another program.
        """
        self._file = folder / "cluster.json"
        state = _read_state(self._file)
        self.parts = {part["name"]: Part(**part) for part in state["parts"]}
        self.environment: dict[str, str] = dict(state["environment"])
        self.workers: int = state["workers"]
        self.data = Path(state["data"])

    @property
    def is_up(self) -> bool:
        """Whether there is anything to end."""
        return any(map(running, self.parts.values()))

    def begin(self, workers: int, environment: dict[str, str]) -> None:
        """Make the place for data and logs; sockets allow only short paths."""
        self.data = Path(tempfile.mkdtemp(prefix=DATA_PREFIX, dir=DATA_PARENT))
        self.data.chmod(0o711)  # Postgres refuses to be root, and must reach its folder below
        self.workers, self.environment = workers, environment
        self._save()

    def start(
        self,
        name: str,
        command: list[Any],
        environment: dict[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        """Start a process of the cluster, as another user if given."""
        words = [str(word) for word in command]
        with self.log(name).open("w") as file:
            process = subprocess.Popen(
                words,
                env=_clean_environment() | self.environment | (environment or {}),
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **identity(user),
            )
        created = psutil.Process(process.pid).create_time()
        self.parts[name] = Part(name, words, environment or {}, user, process.pid, created)
        self._save()

    def keep_logs(self) -> Path:
        """Copy the logs to a folder that `end` leaves alone."""
        kept = Path(f"{self.data}-logs")
        kept.mkdir()
        for log in self.data.glob("*.log"):
            shutil.copy(log, kept)
        return kept

    def log(self, name: str) -> Path:
        """Where a process writes what it has to say."""
        return self.data / f"{name}.log"

    def part(self, name: str) -> Part:
        """A part by name.

        Raises:
            StartError: there is no such part.
        """
        if name not in self.parts:
            raise StartError(f"no part '{name}'; there are: {', '.join(self.parts) or 'none'}")
        return self.parts[name]

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until a process answers.

        Raises:
            StartError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        part = self.parts[name]
        while time.monotonic() < deadline:
            with suppress(OSError, requests.RequestException, psycopg.OperationalError):
                if ready():
                    return
            if running(part) is None:
                break
            time.sleep(0.2)
        lines = self.log(name).read_text(errors="replace").splitlines()
        raise StartError(f"{name} did not start; its log ends with:\n  " + "\n  ".join(lines[-8:]))

    def end(self) -> None:
        """End every process, the last one first, and remove the data."""
        for part in reversed(self.parts.values()):
            kill(part)
        if self.data != Path():
            shutil.rmtree(self.data, ignore_errors=True)
        self._file.unlink(missing_ok=True)

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "parts": [asdict(part) for part in self.parts.values()],
            "environment": self.environment,
            "workers": self.workers,
            "data": str(self.data),
        }
        temporary = self._file.with_name(f".{self._file.name}.partial")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(state, indent=1))
        temporary.replace(self._file)


def _read_state(file: Path) -> dict[str, Any]:
    """What `_save` wrote; checked, since what it names is ended and removed.

    Raises:
        StartError: another program wrote it.
    """
    if not file.exists():
        return NO_STATE
    with suppress(ValueError, TypeError, LookupError):
        state: dict[str, Any] = json.loads(file.read_text())
        data = re.fullmatch(rf"{DATA_PARENT}/{DATA_PREFIX}[a-z0-9_]{{8}}", state["data"])
        for part in state["parts"]:
            Part(**part)
        if data and state.keys() == NO_STATE.keys():
            return state
    raise StartError(f"{file} is not of cluster/local: move it, or give another --folder")


def running(part: Part) -> psutil.Process | None:
    """The process, if it still runs."""
    with suppress(psutil.Error):
        process = psutil.Process(part.pid)
        is_same = abs(process.create_time() - part.created) < 1
        if is_same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def kill(part: Part) -> None:
    """End a process and all that it started, at once: nothing of it is to be kept."""
    process = running(part)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)


def _clean_environment() -> dict[str, str]:
    """This program's, without what belongs to another cluster."""
    others = ("RAY_", "AWS_", "MLFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


def identity(user: int | None) -> dict[str, Any]:
    """What makes a process run as another user."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}
