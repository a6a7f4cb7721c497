"""Delivery to a server that may go away: in order, kept until it has arrived.

What is sent must do no harm when it is sent twice, since a reply can be lost on its way.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from facevae.errors import UserError
from facevae.tracking.failures import Failure, judge

T = TypeVar("T")
AT_ONCE = 1000
"""most things in one request: MLflow's limit of metrics in a batch"""
REQUEST_SECONDS = 15.0
"""how long a first try may take, however little patience there is with a server that is away"""


class Tell(Protocol):
    """Where a line for the user goes."""

    def __call__(self, line: str, /) -> None:
        """Show the line."""


class UndeliveredError(UserError):
    """The server was away for longer than one wanted to wait."""


@dataclass(eq=False)
class _Item:
    """Things to send; consecutive ones with the same `send` go together."""

    send: Callable[[list[Any]], Any]
    things: list[Any]
    quiet: bool = False
    is_call: bool = False
    hasty: bool = False
    done: bool = False
    result: Any = None
    failure: Failure | None = None
    error: Exception | None = field(default=None, repr=False)


class Delivery:
    """One background thread that sends what it is given, in order, again and again if need be."""

    def __init__(
        self, server: str, safe: str, tell: Tell, waits: tuple[float, float] = (0.5, 15.0)
    ) -> None:
        """Start the thread.

        Args:
            server: its name in messages.
            safe: what a user should know when the server does not come back: what is safe, and
                what to do.
            tell: where messages go.
            waits: seconds before the first retry and, doubled each time, at most.
        """
        self._server, self._safe, self._tell, self._waits = server, safe, tell, waits
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._sending: list[_Item] = []
        self._failure: Failure | None = None
        self._told = self._closed = False
        self._delivered, self._arrived_at = 0, 0.0
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(
        self, send: Callable[[list[Any]], Any], things: list[Any], *, quiet: bool = False
    ) -> None:
        """Send things in the background, at most `AT_ONCE` together.

        Args:
            send: sends a list of things that may have been put in several calls.
            things: what to send.
            quiet: not worth a message when the server is away.
        """
        with self._changed:
            for start in range(0, len(things), AT_ONCE):
                self._queue.append(_Item(send, things[start : start + AT_ONCE], quiet))
            self._changed.notify_all()

    def call(self, send: Callable[[], T], patience: float, *, hasty: bool = False) -> T:
        """The result of a call, made after all that was put before it.

        Args:
            send: the call.
            patience: seconds to wait while nothing arrives.
            hasty: fail with the second error instead of waiting for a server that is away.

        Raises:
            UndeliveredError: the server was away for too long.
            UserError: the server refused.
        """
        item = _Item(lambda _: send(), [None], is_call=True, hasty=hasty)
        with self._changed:
            self._queue.append(item)
            self._changed.notify_all()
            self._say_that_one_waits(patience)
            if not self._wait_for(lambda: item.done, patience):
                item.done = True  # it is given up, also if it is being tried
                if item in self._queue:
                    self._queue.remove(item)
                raise self._undelivered(patience)
        if item.failure is not None:
            refused = "refuses" if item.failure.is_final else "cannot be used"
            raise UserError(
                f"the tracking server {self._server} {refused}: {item.failure}"
            ) from item.error
        result: T = item.result
        return result

    def flush(self, patience: float) -> None:
        """Wait until all has arrived.

        Raises:
            UndeliveredError: nothing more has arrived for `patience` seconds.
            UserError: the server refused some of it.
        """
        with self._changed:
            self._wait_for(lambda: self._is_empty() or self._told, patience)
            self._say_that_one_waits(patience)
            if not self._wait_for(self._is_empty, patience):
                raise self._undelivered(patience)
            if self._refused:
                raise UserError(
                    f"the tracking server {self._server} refused {len(self._refused)} of the "
                    f"things to log ({self._refused[0]}); {self._safe}"
                )

    def close(self) -> None:
        """Stop; what has not arrived is dropped."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    def _wait_for(self, is_so: Callable[[], bool], patience: float) -> bool:
        """Wait for something; gives up when nothing has arrived for `patience` seconds."""
        begun = time.monotonic()
        while not is_so():
            left = max(begun, self._arrived_at) + self._at_least(patience) - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(left)
        return True

    def _at_least(self, patience: float) -> float:
        return patience if self._failure else max(patience, REQUEST_SECONDS)

    def _is_empty(self) -> bool:
        return not self._queue and not self._sending

    def _say_that_one_waits(self, patience: float) -> None:
        if self._told:
            self._tell(f"waiting up to {patience:.0f} s for the tracking server {self._server}")

    def _undelivered(self, patience: float) -> UndeliveredError:
        reason = self._failure or "no answer"
        return UndeliveredError(
            f"the tracking server {self._server} could not be used for "
            f"{self._at_least(patience):.0f} s ({reason}); {self._safe}"
        )

    # --- on the thread ---

    def _work(self) -> None:
        while True:
            with self._changed:
                self._sending = []
                self._say_that_it_is_back()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                self._sending = self._next()
            if not self._deliver(self._sending) and len(self._sending) > 1:
                for item in self._sending:  # one thing refused is no reason to lose the rest
                    self._deliver([item])

    def _next(self) -> list[_Item]:
        """The oldest item, and those after it that can go with it."""
        items = [self._queue.popleft()]
        count = len(items[0].things)
        while self._queue and self._queue[0].send == items[0].send:
            count += len(self._queue[0].things)
            if count > AT_ONCE:
                break
            items.append(self._queue.popleft())
        return items

    def _deliver(self, items: list[_Item]) -> bool:
        """Send items until they have arrived; false if they are refused."""
        things = [thing for item in items for thing in item.things]
        wait, longest = self._waits
        for attempt in range(1 << 62):
            try:
                result = items[0].send(things)
            except Exception as error:  # noqa: BLE001 - whatever it is, the work must go on
                failure = judge(error)
                with self._changed:
                    if failure.is_final or (items[0].hasty and attempt > 0):
                        self._give_up(items, failure, error)
                        return False
                    self._failure = failure
                    self._changed.notify_all()
                    # A connection that was idle may break once without meaning anything.
                    self._say_that_it_went_away(attempt > 0)
                    is_over = self._changed.wait_for(
                        lambda: self._closed or all(item.done for item in items), wait
                    )
                    if is_over:
                        return True
                wait = min(2 * wait, longest)
            else:
                with self._changed:
                    self._arrived_at = time.monotonic()
                    self._delivered += sum(len(item.things) for item in items if not item.quiet)
                    items[0].result = result
                    self._finish(items)
                return True
        raise AssertionError("unreachable")

    def _give_up(self, items: list[_Item], failure: Failure, error: Exception) -> None:
        if len(items) > 1:
            return  # each is tried alone
        if not items[0].is_call:
            if not self._refused:
                self._tell(
                    f"the tracking server {self._server} refuses something that was to be logged "
                    f"({failure.reason}); work goes on without it"
                )
            self._refused.append(failure.reason)
        items[0].failure, items[0].error = failure, error
        self._finish(items)

    def _finish(self, items: list[_Item]) -> None:
        for item in items:
            item.done = True
        self._changed.notify_all()

    def _say_that_it_went_away(self, is_sure: bool) -> None:
        matters = any(not item.quiet for item in [*self._sending, *self._queue])
        if not self._told and is_sure and matters:
            self._told, self._delivered = True, 0
            reason = self._failure.reason if self._failure else ""
            self._tell(
                f"the tracking server {self._server} went away ({reason}); work goes on, and what "
                "it should log is kept"
            )
            self._changed.notify_all()

    def _say_that_it_is_back(self) -> None:
        if self._queue or self._closed:
            return
        self._failure = None
        if self._told:
            self._told = False
            self._tell(
                f"the tracking server {self._server} is back; {self._delivered} points delivered"
            )
