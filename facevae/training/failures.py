"""What a training outlives, and what ends it."""

from collections import Counter
from typing import Any

import ray
import ray.train

from facevae import storage
from facevae.errors import UserError
from facevae.training.resources import WorkerPlan

LOST_WORKERS = 20
"""how often a run starts anew after losing a worker; the same command goes on from there"""
SAME_ERRORS = 3
"""how often the workers may raise the same error, at the same step, before the run ends"""
MINUTES_FOR_NODES = 30
"""how long training waits for nodes that the autoscaler must add first"""


def failure_config(plan: WorkerPlan) -> ray.train.FailureConfig:
    """What training outlives.

    Ray tries for a minute to start workers, and counts what failed over the whole run. A range of
    workers is there to outlive lost nodes; each loss costs such a try, since Ray's count of nodes
    lags behind. A fixed number outlives lost processes.
    """
    limit = MINUTES_FOR_NODES if plan.is_waiting else 3
    if plan.fewest < plan.workers:
        limit = MINUTES_FOR_NODES + LOST_WORKERS
    return ray.train.FailureConfig(max_failures=LOST_WORKERS, controller_failure_limit=limit)


class StopAtMistakes(ray.train.UserCallback):  # type: ignore[misc]  # ray is not annotated
    """Ends a run at what its user must mend, instead of starting workers anew to the same end."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._step, self._errors = -1, Counter[str]()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a mistake of the user's, or an error that comes back: Ray does not retry it then.

        What workers say of a lost one differs from time to time, by port or process number.
        """
        for exception in worker_exceptions.values():
            mistake = _mistake(exception)
            if mistake is not None:
                raise mistake
        step = ray.get(self._board.step.remote())
        if step != self._step:
            self._step, self._errors = step, Counter()
        said = {_last_line(exception): exception for exception in worker_exceptions.values()}
        self._errors.update(said.keys())
        for line, exception in said.items():
            if self._errors[line] == SAME_ERRORS:
                raise exception


def cause_of(error: Exception) -> Exception:
    """The worker's own exception if it is one that the user can mend, else Ray's."""
    failures = [getattr(error, "controller_failure", None)]
    failures += getattr(error, "worker_failures", {}).values()
    return next(filter(None, map(_mistake, failures)), error)


def _mistake(failure: BaseException | None) -> UserError | None:
    """A failure as the mistake of the user's that caused it, if one did."""
    while failure is not None:
        if isinstance(failure, UserError):
            return UserError(str(failure))
        if isinstance(failure, OSError) and failure.errno in storage.WRITE_ERRORS:
            return UserError(f"cannot write a checkpoint: {storage.WRITE_ERRORS[failure.errno]}")
        failure = failure.__cause__
    return None


def _last_line(error: Exception) -> str:
    """The error itself, where its text is a traceback."""
    return str(error).strip().rpartition("\n")[2]
