"""The delivery against a fake that fails in every way, and what each failure means."""

import threading
import time

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, UNAUTHENTICATED

from facevae.errors import UnreachableError, UserError
from facevae.tracking import delivery as delivery_module
from facevae.tracking.delivery import AT_ONCE, Delivery, UndeliveredError
from facevae.tracking.failures import judge

AWAY = MlflowException(
    "API request to http://x/api failed with exception HTTPConnectionPool(host='x', port=1): Max "
    "retries exceeded (Caused by NewConnectionError('<...>: Failed to establish a new connection: "
    "[Errno 111] Connection refused'))"
)


class FakeServer:
    """Keeps what it is sent; fails with the errors it is given, before or after keeping."""

    def __init__(self):
        self.kept, self.requests = [], []
        self.before, self.after = [], []
        self.open = threading.Event()
        self.open.set()

    def send(self, things):
        self.requests.append(list(things))
        assert self.open.wait(10)
        if self.before:
            raise self.before.pop(0)
        self.kept += [thing for thing in things if thing not in self.kept]
        if self.after:
            raise self.after.pop(0)


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def delivery(lines):
    made = Delivery("http://x", "the work is safe in runs/x", lines.append, waits=(0.01, 0.04))
    yield made
    made.close()


def test_all_arrives_in_order_and_nothing_is_said(delivery, server, lines):
    for number in range(50):
        delivery.put(server.send, [number])
    delivery.flush(5)
    assert server.kept == list(range(50))
    assert lines == []


def test_what_is_logged_while_the_server_is_away_is_kept_and_arrives_in_order(
    delivery, server, lines
):
    server.before = [AWAY] * 6
    delivery.put(server.send, [0])
    while not lines:
        time.sleep(0.01)
    for number in range(1, 20):
        delivery.put(server.send, [number])
    delivery.flush(5)
    assert server.kept == list(range(20))
    away, *waiting, back = lines
    assert away == (
        "the tracking server http://x went away (connection refused); work goes on, and what it "
        "should log is kept"
    )
    assert back == "the tracking server http://x is back; 20 points delivered"
    assert all(line.startswith("waiting up to 5 s") for line in waiting)


def test_one_broken_connection_is_not_worth_a_word(delivery, server, lines):
    server.before = [AWAY]
    delivery.put(server.send, [1])
    delivery.flush(5)
    assert (server.kept, lines) == ([1], [])


def test_a_lost_reply_makes_the_same_request_again(delivery, server):
    server.after = [AWAY]
    delivery.put(server.send, [1])
    delivery.put(server.send, [2])
    delivery.flush(5)
    assert server.requests[0] == server.requests[1]
    assert server.kept == [1, 2]


def test_points_that_wait_travel_together_up_to_the_limit(delivery, server):
    server.open.clear()
    delivery.put(server.send, [-1])
    while not server.requests:
        time.sleep(0.01)
    for number in range(AT_ONCE + 10):
        delivery.put(server.send, [number])
    server.open.set()
    delivery.flush(5)
    assert [len(request) for request in server.requests] == [1, AT_ONCE, 10]
    assert server.kept == list(range(-1, AT_ONCE + 10))


def test_a_slow_server_does_not_hold_up_the_one_who_logs(delivery, server, monkeypatch):
    monkeypatch.setattr(delivery_module, "REQUEST_SECONDS", 0.1)
    server.open.clear()
    begun = time.monotonic()
    for number in range(1000):
        delivery.put(server.send, [number])
    assert time.monotonic() - begun < 1
    with pytest.raises(UndeliveredError, match=r"used for 0 s \(no answer\); the work"):
        delivery.flush(0.1)
    server.open.set()
    delivery.flush(5)
    assert server.kept == list(range(1000))


def test_one_thing_refused_is_said_once_and_the_rest_arrives(delivery, server, lines):
    def send(things):
        if "bad" in things:
            raise RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no 'bad'"})
        server.send(things)

    server.open.clear()
    delivery.put(server.send, [0])
    for thing in (1, "bad", 2, "bad", 3):
        delivery.put(send, [thing])
    server.open.set()
    with pytest.raises(UserError, match=r"refused 2 of the things to log \(no 'bad'\); the work"):
        delivery.flush(5)
    assert server.kept == [0, 1, 2, 3]
    (line,) = lines
    assert "refuses something that was to be logged (no 'bad'); work goes on" in line


def test_a_call_waits_its_turn_and_tries_again(delivery, server):
    server.before = [AWAY, AWAY]
    delivery.put(server.send, [1])
    assert delivery.call(lambda: list(server.kept), 5) == [1]
    failures = [AWAY, AWAY]

    def call():
        if failures:
            raise failures.pop()
        return "answer"

    assert delivery.call(call, 5) == "answer"
    with pytest.raises(UserError, match=r"refuses: not there"):
        delivery.call(lambda: _raise(UserError("not there")), 5)


def test_without_patience_a_server_that_answers_is_waited_for(delivery):
    assert delivery.call(lambda: time.sleep(0.2) or "answer", 0) == "answer"
    delivery.put(lambda _: time.sleep(0.2), [1])
    delivery.flush(0)
    begun = time.monotonic()
    with pytest.raises(UndeliveredError, match="connection refused"):
        delivery.call(lambda: _raise(AWAY), 0)
    assert time.monotonic() - begun < 5


def test_a_hasty_call_fails_soon_and_one_given_up_is_not_made_later(delivery, lines):
    with pytest.raises(UserError, match="cannot be used: connection refused: check that MLFLOW"):
        delivery.call(lambda: _raise(AWAY), 5, hasty=True)
    made = []
    away = threading.Event()

    def call():
        made.append(1)
        if not away.is_set():
            raise AWAY

    with pytest.raises(UndeliveredError, match="connection refused"):
        delivery.call(call, 0.2)
    away.set()
    delivery.flush(5)
    count = len(made)
    time.sleep(0.1)
    assert len(made) == count


def test_quiet_things_are_kept_without_a_word(delivery, server, lines):
    server.before = [AWAY] * 5
    delivery.put(server.send, [1], quiet=True)
    delivery.flush(5)
    assert (server.kept, lines) == ([1], [])


def _raise(error):
    raise error


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


TIMEOUT = MlflowException("API request to http://x failed with timeout exception")
TIMEOUT.__cause__ = requests.exceptions.ReadTimeout("read timed out")
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
        (KeyError("ours"), True, "KeyError"),
        (UserError("no such file: a.png"), True, "no such file"),
        (UnreachableError("cannot reach s3://b/a.png"), False, "cannot reach s3://b/a.png"),
    ],
)  # fmt: skip
def test_what_may_pass_is_told_from_what_never_will(error, is_final, reason):
    failure = judge(error)
    assert failure.is_final == is_final
    assert reason in failure.reason
    assert "\n" not in str(failure)


def test_a_refused_login_names_the_variables_that_are_missing_and_never_values(monkeypatch):
    error = MlflowException("You are not authenticated", error_code=UNAUTHENTICATED)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert judge(error).advice == "set MLFLOW_TRACKING_USERNAME"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert str(judge(error)) == (
        "wrong user name or password (401): check MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )
