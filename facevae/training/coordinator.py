"""What driver and workers ask of each other while training runs: an actor on the driver's node."""

import time
from collections import Counter

Metrics = dict[str, float]  # not that of loop.py: this process needs no torch
LISTENING_SECONDS = 5.0
"""a worker that has not asked for so long is not training"""


class Coordinator:
    """The newest metrics of a training run for the driver, and its requests for the workers."""

    def __init__(self) -> None:
        """An empty coordinator."""
        self._step = 0
        self._metrics: Metrics = {}
        self._lines: list[str] = []
        self._unlogged: str | None = None
        self._stops, self._saves, self._asked = False, 0, 0.0
        self._has_unsaved_steps = False
        self._stopped: int | None = None
        self._failed_at = 0
        self._failures: Counter[tuple[int, str]] = Counter()

    # --- from the workers ---

    def show(self, step: int, metrics: Metrics) -> None:
        """Put up a step's metrics, beside older ones of other names."""
        self._step = step
        self._metrics |= metrics

    def log(self, line: str) -> None:
        """Put up a message for the user."""
        self._lines.append(line)

    def give_up_logging(self, reason: str) -> None:
        """Remember why what the run should log has not arrived."""
        self._unlogged = reason

    def fail(self, rank: int, reason: str) -> int:
        """Count a failure of a rank; returns how often it failed so since the newest step came."""
        if self._step != self._failed_at:
            self._failed_at = self._step
            self._failures.clear()
        self._failures[rank, reason] += 1
        return self._failures[rank, reason]

    def requests(self, has_unsaved_steps: bool) -> tuple[bool, int]:
        """Whether to stop, and how many checkpoints out of turn were asked for so far.

        Args:
            has_unsaved_steps: whether a stop would lose steps that no checkpoint has yet.
        """
        self._asked, self._has_unsaved_steps = time.monotonic(), has_unsaved_steps
        return self._stops, self._saves

    def stopped(self, step: int) -> None:
        """Tell that the checkpoint of a step is kept, as the run stops."""
        self._stopped = step

    # --- from the driver ---

    def stop(self) -> bool:
        """Ask for a checkpoint and an end; whether there is one to wait for.

        There is none if no worker hears it, or none has a step to lose; it may be asked again.
        """
        self._stops = True
        is_heard = time.monotonic() - self._asked < LISTENING_SECONDS
        return is_heard and self._has_unsaved_steps

    def save(self) -> None:
        """Ask for a checkpoint now."""
        self._saves += 1

    def last_step(self) -> int | None:
        """The step whose checkpoint was kept for the stop; none: not yet."""
        return self._stopped

    def unlogged(self) -> str | None:
        """Why what the run should log has not arrived; none if it has."""
        return self._unlogged

    def read(self) -> tuple[int, Metrics, list[str]]:
        """The newest step and metrics, and the messages since the last call."""
        lines, self._lines = self._lines, []
        return self._step, self._metrics, lines
