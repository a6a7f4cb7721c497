"""What a training outlives, and what ends it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import torch.distributed as dist

from facevae.errors import UnreachableError, UserError
from facevae.ray_cluster.placement import WorkerPlan
from facevae.runs import storage

LOST_WORKERS = 20
"""how often a run starts anew after losing a worker; the same command goes on from there"""
SAME_ERRORS = 3
"""how often the workers may raise the same error, at the same step, before the run ends"""
MINUTES_FOR_NODES = 30
"""how long training waits for nodes that the autoscaler must add first"""


def failure_config(plan: WorkerPlan) -> ray.train.FailureConfig:
    """What training outlives.

    Ray attempts for a minute to start workers, and counts what failed over the whole run. A range
    of workers is there to outlive lost nodes; each loss costs such an attempt, since Ray's count of
    nodes lags behind. A fixed number outlives lost processes.
    """
    limit = MINUTES_FOR_NODES if plan.is_waiting else 3
    if plan.fewest < plan.workers:
        limit = MINUTES_FOR_NODES + LOST_WORKERS
    return ray.train.FailureConfig(max_failures=LOST_WORKERS, controller_failure_limit=limit)


class RepeatedError(Exception):
    """An error that a worker raised again and again at the same step."""


@contextmanager
def ending_at_repeated_errors(coordinator: Any, rank: int) -> Iterator[None]:
    """A block of a worker whose errors are counted: a program's mistake is no machine that dies.

    Args:
        coordinator: the `Coordinator` actor, which outlives the workers.
        rank: whose errors are counted.

    Raises:
        RepeatedError: instead of the error, once it has come `SAME_ERRORS` times.
    """
    try:
        yield
    except Exception as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        # Another worker or a store may have gone, as far as this one can see.
        kinds = (OSError, UnreachableError, dist.DistError, ray.exceptions.RayError)
        is_connection = isinstance(cause, kinds) or "gloo" in str(cause)
        if not is_connection and lasting_mistake(error) is None:
            reason = f"{type(cause).__name__}: {cause}"
            if ray.get(coordinator.fail.remote(rank, reason)) >= SAME_ERRORS:
                raise RepeatedError(f"{SAME_ERRORS} times at the same step, {reason}") from error
        raise


class StopAtMistakes(ray.train.UserCallback):  # type: ignore[misc]  # ray is not annotated
    """Ends a run at what its user must mend, instead of starting workers anew to the same end."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first error that no new worker would mend: an error here, Ray does not retry.

        Ray calls it at every look at the workers, as often as they have errors.
        """
        for exception in worker_exceptions.values():
            is_repeated = isinstance(exception, RepeatedError)
            mistake = exception if is_repeated else lasting_mistake(exception)
            if mistake is not None:
                raise mistake


def cause_of(error: Exception) -> Exception:
    """The worker's own exception if it is one that the user can mend, else Ray's."""
    failures = [getattr(error, "controller_failure", error)]
    failures += getattr(error, "worker_failures", {}).values()
    return next(filter(None, map(_mistake, failures)), error)


def _mistake(failure: BaseException | None) -> UserError | None:
    """A failure as the mistake of the user's that caused it, if one did."""
    while failure is not None:
        if isinstance(failure, ray.exceptions.RayTaskError):  # of a reader
            failure = failure.cause
        elif isinstance(failure, UserError):
            return type(failure)(str(failure))
        elif isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = storage.WRITE_ERRORS[failure.errno]
            return UserError(f"cannot write {failure.filename or 'a file'}: {reason}")
        else:
            failure = failure.__cause__
    return None


def lasting_mistake(failure: BaseException) -> UserError | None:
    """A failure as the mistake of the user's that caused it, unless it may pass by itself."""
    mistake = _mistake(failure)
    return None if isinstance(mistake, UnreachableError) else mistake
