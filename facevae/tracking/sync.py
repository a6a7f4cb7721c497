"""A run's store as a mirror of what the run has made: what it lacks is sent, once, in order.

A point carries the time it was made at, a picture has a name, and the store is asked first what it
has of the run. So anything may be sent again, since a reply can be lost on its way.
"""

import re
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

from facevae.errors import UserError
from facevae.tracking.connection import Failure, classify_error

T = TypeVar("T")
AT_ONCE = 1000
"""MLflow's limit of metrics in a request"""
REQUEST_SECONDS = 15.0
"""how long a request may take, however little patience there is with a server that is away"""
NAMED = 5
"""how many of the refused things a message names"""
SYSTEM = "system/"
"""metrics of this name are not worth a message when the server is away"""
IMAGES_TAG = "mlflow.loggedImages"
"""tells MLflow's page that a run has images"""
IMAGES, THUMBNAIL, FULL = "images", "+compressed.webp", ".png"
THUMBNAIL_SIZE = 256
_IMAGE = re.compile(
    rf"{IMAGES}/(?P<name>(?P<key>.+)\+step\+(?P<step>\d+)\+.+?)"
    rf"(?P<end>{re.escape(THUMBNAIL)}|{re.escape(FULL)})"
)


class _Call(NamedTuple):
    what: str
    """its name in messages"""
    send: Callable[[], Any]
    result: Future[Any]
    raises: bool = False
    """whether a refusal is an error of whoever waits for it; else it costs this call alone"""
    attempts: int | None = None


class Mirror:
    """A background thread that sends points and makes calls, again and again if need be.

    What the server refuses is left out and named: a warning with the first, one with all at `flush`
    if there are more.
    """

    def __init__(
        self,
        server: str,
        safe: str,
        send: Callable[[list[Metric]], None],
        log: Callable[[str], object],
        waits: tuple[float, float] = (0.5, 15.0),
    ) -> None:
        """Start the thread.

        Args:
            server: its name in messages.
            safe: what a user should know when the server does not come back: what is safe, and
                what to do.
            send: sends points, all or none.
            log: where messages go.
            waits: seconds before the first retry, and the most; each wait is twice the last.
        """
        self._server, self._safe = f"the tracking server {server}", safe
        self._send, self._log, self._waits = send, log, waits
        self._changed = threading.Condition()
        self._points: deque[Metric] = deque()
        self._calls: deque[_Call] = deque()
        self._at_once = AT_ONCE
        self._failure: Failure | None = None
        self._is_told = self._is_closed = False
        self._delivered, self._arrived_at = 0, 0.0
        self._refused: list[str] = []
        threading.Thread(target=self._work, name="tracking", daemon=True).start()

    def add(self, points: Iterable[Metric]) -> None:
        """Send points in the background."""
        with self._changed:
            self._points.extend(points)
            self._changed.notify_all()

    def later(self, what: str, send: Callable[[], object]) -> None:
        """Make a call in the background, after the points and calls before it."""
        self._put(_Call(what, send, Future()))

    def deliver(self, what: str, send: Callable[[], object], patience: float) -> None:
        """Make a call as `call` does, but go on without it if the server refuses it.

        Raises:
            UserError: the server was away for too long.
        """
        self._wait_for(_Call(what, send, Future()), patience)

    def call(self, send: Callable[[], T], patience: float, attempts: int | None = None) -> T:
        """The result of a call, made after the points and calls before it.

        Args:
            send: the call.
            patience: seconds to wait while nothing arrives.
            attempts: how often to try at most; none: for as long as the patience lasts.

        Raises:
            UserError: the server was away for too long, or it refused.
        """
        call = _Call("", send, Future(), True, attempts)
        self._wait_for(call, patience)
        result: T = call.result.result()
        return result

    def flush(self, patience: float) -> None:
        """Wait until all has arrived.

        Raises:
            UserError: nothing more has arrived for `patience` seconds.
        """
        self._wait(self._is_empty, patience)
        if len(self._refused) > 1:
            named = ", ".join(self._refused[:NAMED]) + ", ..." * (len(self._refused) > NAMED)
            self._log(
                f"warning: {self._server} refused {len(self._refused)} of the things to log: "
                f"{named}; all others have arrived"
            )
        self._refused.clear()

    def close(self) -> None:
        """Stop; what has not arrived is dropped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _put(self, call: _Call) -> None:
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()

    def _wait_for(self, call: _Call, patience: float) -> None:
        self._put(call)
        try:
            self._wait(call.result.done, patience)
        finally:
            self._forget([], call)  # one that is given up is not made later

    def _is_empty(self) -> bool:
        return not self._points and not self._calls

    def _wait(self, is_so: Callable[[], bool], patience: float) -> None:
        begun, is_said = time.monotonic(), False
        with self._changed:
            while not is_so():
                if self._is_told and not is_said:
                    self._log(f"waiting up to {patience:.0f} s for {self._server}")
                    is_said = True
                limit = patience if self._failure else max(patience, REQUEST_SECONDS)
                left = max(begun, self._arrived_at) + limit - time.monotonic()
                if left <= 0:
                    raise UserError(
                        f"{self._server} could not be used for {limit:.0f} s "
                        f"({self._failure or 'no answer'}); {self._safe}"
                    )
                self._changed.wait(left)

    # --- on the thread ---

    def _work(self) -> None:
        attempt = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or not self._is_empty())
                if self._is_closed:
                    return
                points = [*islice(self._points, self._at_once)]
                call = None if points else self._calls[0]
            attempt += 1
            try:
                result = call.send() if call else self._send(points)
            except Exception as error:  # noqa: BLE001 - whatever it is, the work must go on
                failure = classify_error(error)
                if not failure.is_final and not (call and attempt == call.attempts):
                    self._wait_after(failure, attempt)
                    continue
                self._give_up(points, call, failure, error)
            else:
                self._at_once = AT_ONCE
                self._note_arrival(points, call, result)
            attempt = 0

    def _note_arrival(self, points: list[Metric], call: _Call | None, result: Any) -> None:
        with self._changed:
            if call and call in self._calls:
                call.result.set_result(result)
            self._forget(points, call)
            self._delivered += sum(map(_matters, points)) + (call is not None)
            self._arrived_at = time.monotonic()
            if self._is_empty():
                self._failure = None
                if self._is_told:
                    self._log(f"{self._server} is back; {self._delivered} points delivered")
                self._is_told = False

    def _wait_after(self, failure: Failure, attempt: int) -> None:
        first, longest = self._waits
        with self._changed:
            self._failure = failure
            # A connection that was idle may break once without meaning anything.
            is_sure = attempt > 1 and (self._calls or any(map(_matters, self._points)))
            if is_sure and not self._is_told:
                self._is_told, self._delivered = True, 0
                self._log(
                    f"{self._server} went away ({failure.reason}); work goes on, and what it "
                    "should log is kept"
                )
            self._changed.notify_all()
            seconds = min(first * 2 ** min(attempt - 1, 10), longest)
            self._changed.wait_for(lambda: self._is_closed or self._is_empty(), seconds)

    def _give_up(
        self, points: list[Metric], call: _Call | None, failure: Failure, error: Exception
    ) -> None:
        with self._changed:
            if len(points) > 1:  # one that is refused is no reason to lose the others
                self._at_once = len(points) // 2
                return
            if call and call.raises:
                if not isinstance(error, UserError):
                    does = "refuses" if failure.is_final else "cannot be used"
                    cause, error = error, UserError(f"{self._server} {does}: {failure}")
                    error.__cause__ = cause
                call.result.set_exception(error)
            else:
                what = call.what if call else f"metric '{points[0].key}' of step {points[0].step}"
                if not self._refused:
                    self._log(
                        f"warning: {self._server} refuses {what} ({failure.reason}); work goes on "
                        "without it"
                    )
                self._refused.append(what)
                if call:
                    call.result.set_result(None)
            self._forget(points, call)

    def _forget(self, points: list[Metric], call: _Call | None) -> None:
        with self._changed:
            for _ in points:
                self._points.popleft()
            if call and call in self._calls:
                self._calls.remove(call)
            self._changed.notify_all()


def _matters(point: Metric) -> bool:
    return not point.key.startswith(SYSTEM)


class Store:
    """What an MLflow store has of a run, and how it gets the rest."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """Takes the run; the store is asked when something is to be sent."""
        self._client, self._run_id = client, run_id
        self._steps: dict[str, int] | None = None
        self._names: dict[tuple[str, int], str] = {}
        self._whole: set[tuple[str, int]] | None = None

    def send_points(self, points: list[Metric]) -> None:
        """Send the points that the store lacks.

        The points of a metric arrive in the order of their steps, and a request is stored whole or
        not at all: so the largest stored step tells all that an earlier attempt of the run has
        sent. What is made anew up to that step is there already.
        """
        if self._steps is None:
            # Only these tell the step; the histories of all metrics would be a large answer.
            latest = self._client.get_run(self._run_id).data.to_proto().metrics
            self._steps = {metric.key: int(metric.step) for metric in latest}
        steps = self._steps
        if new := [point for point in points if point.step > steps.get(point.key, -1)]:
            self._client.log_batch(self._run_id, metrics=new)

    def send_image(
        self, key: str, step: int, made_at: int, load: Callable[[], np.ndarray | None]
    ) -> None:
        """Send the picture of a step, if the store lacks it and there is one.

        Args:
            key: its name, the same at every step.
            step: the step.
            made_at: milliseconds since 1970.
            load: the picture, uint8 [H,W,3]; none: there is none.
        """
        key = key.replace("/", "~")  # as MLflow names them
        if self._whole is None:
            self._whole = self._list_images()
        if (key, step) in self._whole or (pixels := load()) is None:
            return
        new = f"{key}+step+{step}+timestamp+{made_at}+{uuid.uuid4()}"
        name = self._names.setdefault((key, step), new)
        picture = Image.fromarray(pixels)
        thumbnail = picture.copy()
        thumbnail.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        with tempfile.TemporaryDirectory() as folder:
            # The full picture goes last: it shows that both are there.
            for each, end in ((thumbnail, THUMBNAIL), (picture, FULL)):
                path = Path(folder) / f"{name}{end}"
                each.save(path)
                self._client.log_artifact(self._run_id, str(path), IMAGES)
        self._client.set_tag(self._run_id, IMAGES_TAG, True)

    def _list_images(self) -> set[tuple[str, int]]:
        """Key and step of the images that are whole; the names of all are kept, also of halves."""
        whole = set()
        for file in self._client.list_artifacts(self._run_id, IMAGES):
            if found := _IMAGE.fullmatch(file.path):
                image = found["key"], int(found["step"])
                self._names[image] = found["name"]
                if found["end"] == FULL:
                    whole.add(image)
        return whole
