"""Shards that fail are run again, round by round, until they are finished or out of attempts.

One that raises leaves an error row. One whose process dies leaves a mark in the output folder: Ray
runs it again at once and without end, and its API has no limit for it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from facevae.errors import UserError
from facevae.runs import storage
from facevae.runs.progress import log

FOLDER, MARK = "tries", r"\d+\.json"  # named as by earlier versions, which left some
DIED = "its worker process died, perhaps for want of memory"
LOST_ROUNDS = 3
"""how often a job goes on after Ray itself has lost its way, as it may when nodes die"""
NAMED = 10
"""how many shards an error names"""


class Attempts(NamedTuple):
    """How often each shard of an output folder may raise, and may die; goes to workers."""

    output: str
    most: int

    def row(self, shard: str, work: Callable[[], None]) -> dict[str, list[Any]]:
        """Do a shard's work; its row says why it failed, or nothing."""
        try:
            names = storage.names(storage.join(self.output, FOLDER, shard))
            deaths = list(filter(re.compile(MARK).fullmatch, names))
            if len(deaths) >= self.most:
                return {"name": [shard], "error": [DIED]}
            mark = storage.join(self.output, FOLDER, shard, f"{len(deaths)}.json")
            storage.write_json(mark, DIED, fsync=False)
            try:
                work()
            finally:
                storage.remove_file(mark)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other shards go on
            return {"name": [shard], "error": [reason_of(error)]}
        return {"name": [shard], "error": [""]}

    def forget(self) -> None:
        """Remove all marks."""
        marks = rf"[^/.][^/]*/(?:{MARK}|{storage.partial_pattern(MARK)})"
        storage.remove_matching_files(storage.join(self.output, FOLDER), marks)


def run_with_retries(
    attempts: Attempts,
    pending: Callable[[], Sequence[str]],
    run: Callable[[Sequence[str]], Mapping[str, str]],
    survived: tuple[type[Exception], ...] = (),
    unit: str = "shards",
) -> None:
    """Run shards until they are finished or have had all their attempts.

    Args:
        attempts: what counts; those of an earlier job are forgotten.
        pending: the shards that are not finished.
        run: runs shards, each in `attempts.row`; returns why some failed.
        survived: errors of `run` itself after which the pending shards are run again, with a
            warning, `LOST_ROUNDS` times.
        unit: what the shards are, for messages.

    Raises:
        UserError: some shards have had all their attempts; names them and says why.
        Exception: an error of `run` itself.
    """
    attempts.forget()
    left = pending()
    count, rounds, lost = len(left), 0, 0
    reasons: Mapping[str, str] = {}
    while left and rounds < attempts.most:
        try:
            reasons = run(left)
            rounds += 1
        except survived as error:
            lost += 1
            if lost > LOST_ROUNDS:
                raise
            log(f"warning: the {unit} that are left go on after {reason_of(error)}")
        left = pending()
    attempts.forget()
    if left:
        failures = [f"{each} ({reasons.get(each, 'its result was lost')})" for each in left[:NAMED]]
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        times = f"{attempts.most} times" if attempts.most > 1 else "once"
        raise UserError(
            f"{len(left)} of {count} {unit} failed {times}: {'; '.join(failures)}{more}; the "
            "others are finished: mend these, and the same command runs them again"
        )


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}"
