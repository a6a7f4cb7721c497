"""The mirror against a store that fails in every way, and what each failure means."""

import threading
import time

import pytest
import requests
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, UNAUTHENTICATED

from facevae.errors import UnreachableError, UserError
from facevae.tracking import sync
from facevae.tracking.connection import classify_error
from facevae.tracking.sync import AT_ONCE, Mirror

AWAY = MlflowException(
    "API request to http://x/api failed with exception HTTPConnectionPool(host='x', port=1): Max "
    "retries exceeded (Caused by NewConnectionError('<...>: Failed to establish a new connection: "
    "[Errno 111] Connection refused'))"
)


class FakeStore:
    """Keeps the steps of the points it is sent.

    It fails with the errors that it is given, before or after keeping.
    """

    def __init__(self):
        self.kept, self.requests = [], []
        self.before, self.after = [], []
        self.refused = set()
        self.open = threading.Event()
        self.open.set()

    def send(self, points):
        steps = [point.step for point in points]
        self.requests.append(steps)
        assert self.open.wait(10)
        if self.before:
            raise self.before.pop(0)
        if self.refused.intersection(steps):
            raise RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no such"})
        self.kept += [step for step in steps if step not in self.kept]
        if self.after:
            raise self.after.pop(0)


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def mirror(store, lines):
    safe = "the work is safe in runs/x"
    made = Mirror("http://x", safe, store.send, lines.append, waits=(0.01, 0.04))
    yield made
    made.close()


def points(*steps: int, key: str = "loss") -> list[Metric]:
    return [Metric(key, 1.0, 0, step) for step in steps]


def test_all_arrives_in_order_and_nothing_is_said(mirror, store, lines):
    for step in range(50):
        mirror.add(points(step))
    mirror.flush(5)
    assert store.kept == list(range(50))
    assert lines == []


def test_what_is_logged_while_the_server_is_away_is_kept_and_arrives_in_order(mirror, store, lines):
    store.before = [AWAY] * 6
    mirror.add(points(0))
    while not lines:
        time.sleep(0.01)
    for step in range(1, 20):
        mirror.add(points(step))
    mirror.flush(5)
    assert store.kept == list(range(20))
    away, *waiting, back = lines
    assert away == (
        "the tracking server http://x went away (connection refused); work goes on, and what it "
        "should log is kept"
    )
    assert back == "the tracking server http://x is back; 20 points delivered"
    assert waiting in ([], ["waiting up to 5 s for the tracking server http://x"])


def test_who_waits_for_a_server_that_is_away_is_told_so_once(mirror, store, lines):
    store.before = [AWAY] * 8
    mirror.add(points(0))
    while not lines:
        time.sleep(0.005)
    mirror.flush(5)
    assert lines[1:-1] == ["waiting up to 5 s for the tracking server http://x"]


def test_one_broken_connection_is_not_worth_a_word(mirror, store, lines):
    store.before = [AWAY]
    mirror.add(points(1))
    mirror.flush(5)
    assert (store.kept, lines) == ([1], [])


def test_a_lost_reply_makes_the_same_request_again(mirror, store):
    store.after = [AWAY]
    mirror.add(points(1))
    mirror.add(points(2))
    mirror.flush(5)
    assert set(store.requests[0]) <= set(store.requests[1])
    assert store.kept == [1, 2]


def test_points_that_wait_travel_together_up_to_the_limit(mirror, store):
    store.open.clear()
    mirror.add(points(-1))
    while not store.requests:
        time.sleep(0.01)
    for step in range(AT_ONCE + 10):
        mirror.add(points(step))
    store.open.set()
    mirror.flush(5)
    assert [len(request) for request in store.requests] == [1, AT_ONCE, 10]
    assert store.kept == list(range(-1, AT_ONCE + 10))


def test_a_slow_server_does_not_hold_up_the_one_who_logs(mirror, store, monkeypatch):
    monkeypatch.setattr(sync, "REQUEST_SECONDS", 0.1)
    store.open.clear()
    begun = time.monotonic()
    for step in range(1000):
        mirror.add(points(step))
    assert time.monotonic() - begun < 1
    with pytest.raises(UserError, match=r"used for 0 s \(no answer\); the work"):
        mirror.flush(0.1)
    store.open.set()
    mirror.flush(5)
    assert store.kept == list(range(1000))


def test_one_point_refused_is_said_once_and_the_rest_arrives(mirror, store, lines):
    store.refused = {3, 40}
    store.open.clear()
    for step in range(100):
        mirror.add(points(step))
    store.open.set()
    mirror.flush(5)
    assert store.kept == [step for step in range(100) if step not in store.refused]
    assert lines == [
        "warning: the tracking server http://x refuses metric 'loss' of step 3 (no such); work "
        "goes on without it",
        "warning: the tracking server http://x refused 2 of the things to log: metric 'loss' of "
        "step 3, metric 'loss' of step 40; all others have arrived",
    ]
    mirror.flush(5)
    assert len(lines) == 2


def test_of_many_refused_points_a_few_are_named(mirror, store, lines):
    store.refused = set(range(20))
    mirror.add(points(*range(30)))
    mirror.flush(5)
    assert store.kept == list(range(20, 30))
    assert "refused 20 of the things to log: metric 'loss' of step 0, " in lines[1]
    assert "metric 'loss' of step 4, ...; all others" in lines[1]


def test_a_call_in_the_background_that_is_refused_keeps_nothing_else_back(mirror, store, lines):
    mirror.later("image 'a'", lambda: _raise(UserError("no such file: a.png")))
    mirror.later("image 'b'", lambda: store.kept.append("picture"))
    mirror.flush(5)
    assert store.kept == ["picture"]
    (line,) = lines
    assert "refuses image 'a' (no such file: a.png); work goes on without it" in line


def test_a_delivery_that_is_refused_costs_itself_alone(mirror, store, lines):
    too_large = http_error(413)
    mirror.deliver("curves.png", lambda: _raise(too_large), 5)
    mirror.deliver("history.json", lambda: store.kept.append("history"), 5)
    mirror.flush(5)
    assert store.kept == ["history"]
    (line,) = lines
    assert "refuses curves.png (" in line
    assert "413" in line


def test_a_delivery_waits_for_a_server_that_is_away(mirror, store):
    failures = [AWAY, AWAY]
    mirror.deliver("curves.png", lambda: failures and _raise(failures.pop()), 5)
    assert failures == []
    with pytest.raises(UserError, match=r"\(connection refused.*; the work is safe"):
        mirror.deliver("curves.png", lambda: _raise(AWAY), 0.1)


def test_a_call_waits_its_turn_and_is_repeated(mirror, store):
    store.before = [AWAY, AWAY]
    mirror.add(points(1))
    assert mirror.call(lambda: list(store.kept), 5) == [1]
    failures = [AWAY, AWAY]

    def call():
        if failures:
            raise failures.pop()
        return "answer"

    assert mirror.call(call, 5) == "answer"
    with pytest.raises(UserError, match=r"^the tracking server http://x refuses: KeyError"):
        mirror.call(lambda: _raise(KeyError("ours")), 5)
    with pytest.raises(UserError, match=r"^not there"):
        mirror.call(lambda: _raise(UserError("not there")), 5)


def test_without_patience_a_server_that_answers_is_waited_for(mirror):
    assert mirror.call(lambda: time.sleep(0.2) or "answer", 0) == "answer"
    mirror.later("image", lambda: time.sleep(0.2))
    mirror.flush(0)
    begun = time.monotonic()
    with pytest.raises(UserError, match="connection refused"):
        mirror.call(lambda: _raise(AWAY), 0)
    assert time.monotonic() - begun < 5


def test_a_call_with_few_attempts_fails_soon_and_one_given_up_is_not_made_later(mirror):
    with pytest.raises(UserError, match="cannot be used: connection refused: check that MLFLOW"):
        mirror.call(lambda: _raise(AWAY), 5, attempts=2)
    made = []
    back = threading.Event()

    def call():
        made.append(1)
        if not back.is_set():
            raise AWAY

    with pytest.raises(UserError, match="connection refused"):
        mirror.call(call, 0.2)
    back.set()
    mirror.flush(5)
    count = len(made)
    time.sleep(0.1)
    assert len(made) == count


def test_system_metrics_are_kept_without_a_word(mirror, store, lines):
    store.before = [AWAY] * 5
    mirror.add(points(1, key="system/cpu"))
    mirror.flush(5)
    assert (store.kept, lines) == ([1], [])


def test_an_outage_of_hours_is_waited_out(mirror, store):
    """The waits between two attempts are doubled, but not without end."""
    mirror._waits = (0.0, 0.0)
    store.before = [AWAY] * 1100
    mirror.add(points(1))
    mirror.flush(30)
    assert store.kept == [1]


def _raise(error):
    raise error


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


TIMEOUT = MlflowException("API request to http://x failed with timeout exception")
TIMEOUT.__cause__ = requests.exceptions.ReadTimeout("read timed out")
PAGE = "<!doctype html>\n<html lang=en><title>404 Not Found</title><p>wrong</p></html>"
LOST_DATABASE = RestException(
    {
        "error_code": "BAD_REQUEST",
        "message": "(psycopg2.InterfaceError) connection already closed (Background on this error "
        "at: https://sqlalche.me/e/20/rvf5)",
    }
)


@pytest.mark.parametrize(
    ("error", "is_final", "reason"),
    [
        (AWAY, False, "connection refused"),
        (TIMEOUT, False, "no answer in time"),
        (ConnectionResetError(104, "Connection reset by peer"), False, "reset by peer"),
        (MlflowException("API request to x failed with exception too many 503 error responses"),
         False, "it answers 503"),
        (http_error(502), False, "502"),
        (http_error(429), False, "429"),
        (http_error(404), True, "404"),
        (MlflowException("API request to endpoint /x failed with error code 404 != 200",
                         error_code=ENDPOINT_NOT_FOUND), False, "it answers 404"),
        (LOST_DATABASE, False, "connection already closed"),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}), True,
         "too long"),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}), True,
         "no run"),
        (MlflowException("Failed to read the model"), True, "Failed to read"),
        (MlflowException(f"API request failed: '{PAGE}'"), True,
         "API request failed: it answers with a web page, so it is another server"),
        (MlflowException(PAGE), True, "it answers with a web page, so it is another server"),
        (KeyError("ours"), True, "KeyError"),
        (UserError("no such file: a.png"), True, "no such file"),
        (UnreachableError("cannot reach s3://b/a.png"), False, "cannot reach s3://b/a.png"),
    ],
)  # fmt: skip
def test_what_may_pass_is_told_from_what_never_will(error, is_final, reason):
    failure = classify_error(error)
    assert failure.is_final == is_final
    assert reason in failure.reason
    assert "\n" not in str(failure)
    assert "<" not in str(failure)


def test_a_refused_login_names_the_variables_that_are_missing_and_never_values(monkeypatch):
    error = MlflowException("You are not authenticated", error_code=UNAUTHENTICATED)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert classify_error(error).advice == "set MLFLOW_TRACKING_USERNAME"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert str(classify_error(error)) == (
        "wrong user name or password (401): check MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )
