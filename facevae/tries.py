"""Tries of a job's parts by workers that may die: counted in files, which outlive whoever counts.

A part is tried again when it raises, and when its process dies, as for want of memory; one that
fails as often as is allowed is left, and named once all others are finished.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from facevae import storage
from facevae.errors import UserError
from facevae.progress import say

FOLDER = "tries"
_MARK = r"\d+\.json"
DIED = "its worker process died, perhaps for want of memory"
LOST_RUNS = 3
"""how often a job goes on after Ray itself has lost its way, as it may when nodes die"""
NAMED = 10
"""how many parts an error names"""


class Tries(NamedTuple):
    """The failed tries of each part, kept below an output folder; goes to workers."""

    output: str
    most: int

    @contextlib.contextmanager
    def one(self, part: str) -> Iterator[None]:
        """A block that is one try of a part; if it does not end well, the try stays counted.

        Raises:
            UserError: the part has had all its tries.
        """
        begun = self._marks(part)
        if len(begun) >= self.most:
            raise UserError(f"{part} has had its {self.most} tries")
        mark = storage.join(self.output, FOLDER, part, f"{len(begun)}.json")
        storage.write_json(mark, DIED, lasting=False)
        try:
            yield
        except Exception as error:
            storage.write_json(mark, reason_of(error), lasting=False)
            raise
        storage.remove_file(mark)

    def last_reason(self, part: str) -> str:
        """Why a part failed the last time."""
        marks = self._marks(part)
        return str(storage.read_json(marks[-1])) if marks else "its result was lost"

    def forget(self) -> None:
        """Forget what happened."""
        ended = r"ended\.json"
        own = (
            rf"[^/.][^/]*/(?:{_MARK}|{storage.partial_pattern(_MARK)})"
            rf"|{ended}|{storage.partial_pattern(ended)}"
        )
        storage.remove_matching_files(storage.join(self.output, FOLDER), own)

    def _marks(self, part: str) -> list[str]:
        folder = storage.join(self.output, FOLDER, part)
        names = filter(re.compile(_MARK).fullmatch, storage.names(folder))
        return [storage.join(folder, name) for name in sorted(names, key=lambda n: (len(n), n))]


def finish(
    tries: Tries,
    todo: Callable[[], Sequence[str]],
    run: Callable[[Sequence[str]], None],
    what: str,
    outlives: tuple[type[Exception], ...] = (),
) -> None:
    """Run a job's parts until they are finished or have had all their tries.

    Args:
        tries: what counts; those of an earlier job are forgotten.
        todo: the parts that are not finished.
        run: runs parts, each inside `tries.one`, and outlives those that fail.
        what: what the parts are called.
        outlives: errors of `run` itself after which those that are left go on, with a warning,
            `LOST_RUNS` times.

    Raises:
        UserError: some parts have had all their tries; names them and says why.
        Exception: an error of `run` itself.
    """
    tries.forget()
    left = todo()
    count = len(left)
    lost, runs = 0, 0
    while left and runs < tries.most:
        try:
            run(left)
            runs += 1
        except outlives as error:
            lost += 1
            if lost > LOST_RUNS:
                raise
            say(f"warning: those {what} that are left go on after {reason_of(error)}")
        left = todo()
    if left:
        # A full disk fails without a mark of it: then this says so.
        storage.write_json(storage.join(tries.output, FOLDER, "ended.json"), len(left))
        told = [f"{part} ({tries.last_reason(part)})" for part in left[:NAMED]]
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        times = f"{tries.most} times" if tries.most > 1 else "once"
        raise UserError(
            f"{len(left)} of {count} {what} failed {times}: {'; '.join(told)}{more}; the others "
            "are finished: mend these, and the same command tries them again"
        )
    tries.forget()


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}"
