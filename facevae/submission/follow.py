"""The log of a running job, shown once and whole, however often the connection breaks."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Protocol

from rich.console import Console
from rich.text import Text

from facevae.errors import UserError
from facevae.progress import Bar, Step, read_step, rich_bar, say
from facevae.submission.cluster import Job, UnreachableError

RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
"""how long a cluster may be out of reach before the job is given up on"""

Write = Callable[[str], None]


class Jobs(Protocol):
    """What is asked of a cluster here."""

    def job(self, submission_id: str) -> Job | None:
        """The state of a job."""

    def log(self, submission_id: str) -> str | None:
        """The whole log of a job."""

    def tail(self, submission_id: str) -> AsyncGenerator[str, None]:
        """The log from its start, until the connection ends."""


def follow(jobs: Jobs, submission_id: str, write: Write) -> Job:
    """Write a job's log until the job is finished; returns its final state.

    Raises:
        UserError: the cluster knows no such job.
        UnreachableError: the cluster has not answered for `PATIENCE_SECONDS`.
    """
    shown = _Shown(write)
    answered, is_lost, pause = time.monotonic(), False, 0.0
    while True:
        try:
            job = jobs.job(submission_id)
            if job is None:
                raise UserError(f"the cluster knows no job {submission_id}; see --list")
            if job.is_finished:
                _show_rest(jobs.log(submission_id), shown)
                return job
            answered, is_lost = time.monotonic(), False
        except UnreachableError:
            if not is_lost:
                say("the cluster is out of reach; trying again")
            is_lost = True
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        time.sleep(pause)
        pause = RETRY_SECONDS
        asyncio.run(_show_tail(jobs.tail(submission_id), shown))


class _Shown:
    """How much of a log was written already, and what comes after it."""

    def __init__(self, write: Write) -> None:
        self._write, self._letters = write, 0

    def show(self, text: str, start: int) -> None:
        """Write what is new in a piece of log that starts at this letter."""
        new = text[max(self._letters - start, 0) :]
        if new:
            self._letters += len(new)
            self._write(new)


async def _show_tail(pieces: AsyncGenerator[str, None], shown: _Shown) -> None:
    start = 0
    async with aclosing(pieces):
        async for piece in pieces:
            shown.show(piece, start)
            start += len(piece)


def _show_rest(log: str | None, shown: _Shown) -> None:
    if log is None:
        say("the end of the log is lost with the node that held it")
    else:
        shown.show(log, 0)


@contextmanager
def job_log() -> Iterator[Write]:
    """Where a log goes for as long as the block lasts: stdout, with bars if it is a terminal."""
    console = Console()
    if console.is_terminal:
        with _TerminalLog(console) as log:
            yield log.write
    else:
        yield _pass_through


def _pass_through(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _TerminalLog:
    """Lines of progress move a bar; all others scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = ""
        self._bars = ExitStack()
        self._bar: Bar | None = None
        self._bar_of: tuple[str, int, str] | None = None

    def __enter__(self) -> "_TerminalLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._line:
            self.write("\n")
        self._bars.close()

    def write(self, text: str) -> None:
        """Show the lines that are complete."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            step = read_step(line)
            if step is None:
                self._console.print(Text.from_ansi(line), soft_wrap=True)
            else:
                self._move(step)

    def _move(self, step: Step) -> None:
        bar_of = (step.title, step.total, step.unit)
        if self._bar is None or self._bar_of != bar_of:
            self._bars.close()
            self._bar = self._bars.enter_context(rich_bar(self._console, *bar_of))
            self._bar_of = bar_of
        self._bar(step.done, step.note)
        if step.done >= step.total:  # what follows goes below it
            self._bars.close()
            self._bar = None
