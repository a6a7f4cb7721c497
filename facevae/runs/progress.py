"""Progress of long work: a rich bar on a terminal, plain lines in a log; on stderr."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_VARIABLE = "FACEVAE_PROGRESS_SECONDS"
"""the environment variable that sets another time between two lines"""


class Bar(Protocol):
    """Something that shows how far a piece of work has got."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done, with a few words on the state."""


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Bar]:
    """A bar for one piece of work, for as long as the block lasts."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _rich_bar(console, title, total, unit) as bar:
            yield bar
    else:
        yield _Lines(title, total, unit)


@contextmanager
def _rich_bar(console: Console, title: str, total: int, unit: str) -> Iterator[Bar]:
    """A bar on a terminal, for as long as the block lasts."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[note]}}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as display:
        task = display.add_task(title, total=total, note="")
        yield lambda done, note="": display.update(task, completed=done, note=note)


class _Lines:
    """A line every few seconds, and one at the end."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._last_line, self._last_done = 0.0, -1
        self._between = _seconds_between_lines()

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        is_soon = now - self._last_line < self._between
        if done == self._last_done or (is_soon and done < self._total):
            return
        self._last_line, self._last_done = now, done
        print(
            f"{self._title}: {done}/{self._total} {self._unit} {note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


def _seconds_between_lines() -> float:
    try:
        return float(os.environ.get(SECONDS_VARIABLE, SECONDS_BETWEEN_LINES))
    except ValueError:
        return SECONDS_BETWEEN_LINES


def log(line: str) -> None:
    """Tell the person at the terminal what happens next."""
    print(line, file=sys.stderr, flush=True)
