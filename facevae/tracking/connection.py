"""How one speaks to a tracking store: how patiently, and what a failure means."""

import logging
import os
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException, RestException

from facevae.errors import UnreachableError, UserError

HTTP_SETTINGS = {
    # Requests are repeated by those who know what may be sent twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""seconds and counts for one request; the user's environment wins"""
ACCESS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
UNAUTHORISED, FORBIDDEN, SERVER_ERROR = 401, 403, 500
TEMPORARY = {408, 409, 425, 429, 499}
"""answers 4xx that another attempt may change"""
MAX_WORDS = 300
"""characters of an error that are shown"""
NETWORK = ("requests", "urllib3", "botocore", "boto3", "s3transfer")
"""packages all of whose errors may pass"""


def prepare() -> None:
    """Set MLflow's patience with one request, and its loggers to errors only."""
    # MLflow prints there where a run can be seen; standard output is for the metrics.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in HTTP_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def without_password(uri: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else uri.replace(parts.netloc.rpartition("@")[0], "***")


class Failure(NamedTuple):
    """Why something did not arrive; final if it never will."""

    is_final: bool
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        """The reason and what to do."""
        return f"{self.reason}: {self.advice}" if self.advice else self.reason


def classify_error(error: Exception) -> Failure:
    """What a failure means.

    What a server that is away, a proxy that answers for it, a database in trouble or a loss of
    rights would look like may pass. All else is final: the request is at fault, or this program.
    """
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return Failure(not isinstance(error, UnreachableError), text)
    status = _status(error)
    if status == UNAUTHORISED:
        missing = [name for name in ACCESS if not os.environ.get(name)]
        if missing:
            wanted = "it wants a user name and a password (401)"
            return Failure(False, wanted, f"set {' and '.join(missing)}")
        return Failure(False, "wrong user name or password (401)", f"check {' and '.join(ACCESS)}")
    if status == FORBIDDEN and "Host header" in text:
        return Failure(
            False,
            "it does not accept the host name in its address (403)",
            "start it with --allowed-hosts (MLFLOW_SERVER_ALLOWED_HOSTS) naming that host and port",
        )
    if status == FORBIDDEN:
        return Failure(
            False,
            "no permission (403)",
            "ask its administrator for the right to edit the experiment, or choose another "
            "--tracking.experiment",
        )
    if reason := _no_connection(error):
        advice = "check that MLFLOW_TRACKING_URI or --tracking.uri names a server that runs"
        return Failure(False, reason, advice)
    if status is None:
        network = type(error).__module__.partition(".")[0] in NETWORK
        is_final = not (network or isinstance(error, OSError))
        return Failure(is_final, f"{type(error).__name__}: {_words(text)}")
    if found := re.search(r"failed with error code (\d+)", text):
        words = f"it answers {found[1]}"
    else:
        words = _words(re.sub(r"^[A-Z_]+: ", "", text))
    return Failure(not _may_pass(error, status, text), words)


def _words(text: str) -> str:
    """What an error says, without the page that a server which is none of MLflow's sends."""
    before, *page = re.split(r"['\"]?<(?:!doctype|html|head|body)\b", text, maxsplit=1, flags=re.I)
    words = before[:MAX_WORDS].rstrip(" :")
    if not page:
        return words
    return f"{words}: it answers with a web page, so it is another server".removeprefix(": ")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int | None:
    """The HTTP status, or the one that MLflow gives to an error of its own store."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, requests.Response):
            return response.status_code
        if isinstance(each, MlflowException):
            return int(each.get_http_status_code())
    return None


def _no_connection(error: Exception) -> str | None:
    """The reason inside the nested messages of requests and urllib3."""
    for each in _chain(error):
        text = str(each)
        if isinstance(each, requests.exceptions.Timeout):
            return "no answer in time"
        if found := re.search(r"too many (\d+) error responses", text):
            return f"it answers {found[1]}"
        if isinstance(each, requests.exceptions.ConnectionError) or "API request to" in text:
            if found := re.search(r"\[Errno -?\d+\] ([\w ,]+)", text):
                return found[1].strip().lower()
            if "RemoteDisconnected" in text or "Connection aborted" in text:
                return "the connection broke"
    return None


def _may_pass(error: Exception, status: int, text: str) -> bool:
    """Whether an answer says more about the server's state than about the request.

    MLflow's client calls what goes wrong in itself an internal error too, and MLflow's server
    answers 400 for any failure of its database but a lost connection; only wrong data stay wrong.
    A proxy answers 404, or a page, while no server is behind it.
    """
    if "sqlalche.me" in text:
        return not re.search("IntegrityError|DataError", text)
    if isinstance(error, MlflowException) and not isinstance(error, RestException):
        passing = error.error_code in ("ENDPOINT_NOT_FOUND", "TEMPORARILY_UNAVAILABLE")
        return passing or ("API request to" in text and status >= SERVER_ERROR)
    return status >= SERVER_ERROR or status in TEMPORARY
