"""Shards that fail are run again, round by round, until they are finished or out of attempts.

Ray retries nothing itself (`TASK_OPTIONS`, `ACTOR_OPTIONS`): it would do so without end where
memory runs out. A shard that raises leaves an error row; one whose process dies leaves no row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from facevae.errors import UserError
from facevae.runs.progress import log

TASK_OPTIONS = {"max_retries": 0}
ACTOR_OPTIONS = {"max_restarts": -1, "max_task_retries": 0}
DIED = "its worker process died, perhaps for want of memory"
LOST_ROUNDS = 3
"""how often a job goes on after Ray itself has lost its way, as it may when nodes die"""
NAMED = 10
"""how many shards an error names"""


def result_row(shard: str, work: Callable[[], None]) -> dict[str, list[Any]]:
    """Do a shard's work; its row says why it failed, or nothing."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other shards go on
        return {"name": [shard], "error": [reason_of(error)]}
    return {"name": [shard], "error": [""]}


def run_with_retries(
    pending: Callable[[], Sequence[str]],
    run: Callable[[Sequence[str]], Mapping[str, str]],
    attempts: int,
    survived: tuple[type[Exception], ...] = (),
) -> None:
    """Run shards until they are finished or have had all their attempts.

    Args:
        pending: the shards that are not finished.
        run: runs shards, each once; returns why those failed that left a row.
        attempts: how often each is run.
        survived: errors of `run` itself after which the pending shards are run again, with a
            warning, `LOST_ROUNDS` times.

    Raises:
        UserError: some shards have had all their attempts; names them and says why.
        Exception: an error of `run` itself.
    """
    left = pending()
    count, rounds, lost = len(left), 0, 0
    reasons: Mapping[str, str] = {}
    while left and rounds < attempts:
        try:
            reasons = run(left)
            rounds += 1
        except survived as error:
            lost += 1
            if lost > LOST_ROUNDS:
                raise
            log(f"warning: the shards that are left go on after {reason_of(error)}")
        left = pending()
    if left:
        failures = [f"{shard} ({reasons.get(shard, DIED)})" for shard in left[:NAMED]]
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        times = f"{attempts} times" if attempts > 1 else "once"
        raise UserError(
            f"{len(left)} of {count} shards failed {times}: {'; '.join(failures)}{more}; the "
            "others are finished: mend these, and the same command tries them again"
        )


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}"
