"""A Ray cluster over HTTP, through its dashboard.

Failures are a `UserError` in one line, or an `UnreachableError` that may pass.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from ray.util.state.api import StateApiClient
from ray.util.state.common import ListApiOptions, StateResource
from ray.util.state.exception import RayStateApiException

from facevae.errors import UserError
from facevae.runtime import GROUP_LABEL, Node, declared_groups, node_of, nodes_to_come
from facevae.submission.request import JobRequest

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
SILENCE_SECONDS = 60.0
"""a log that says nothing for so long is asked for again: the connection may be dead"""
STOP_GRACE = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""seconds in which a job that is stopped keeps its last checkpoint; Ray gives three"""
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")


class UnreachableError(Exception):
    """The cluster does not answer, for now."""


class Job(NamedTuple):
    """The state of a job."""

    submission_id: str
    status: str
    message: str
    driver_exit_code: int | None
    start_ms: int | None
    end_ms: int | None
    metadata: dict[str, str]

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self.status in FINISHED

    @property
    def exit_code(self) -> int:
        """What a shell would say: the driver's code, 143 if stopped, 1 if there was no driver."""
        if self.status == "STOPPED":
            return 143
        if self.driver_exit_code is None:
            return 0 if self.status == "SUCCEEDED" else 1
        # A signal is negative in Ray, and above 128 in a shell.
        return self.driver_exit_code if self.driver_exit_code >= 0 else 128 - self.driver_exit_code


def cluster_address(option: str | None, environment: Mapping[str, str]) -> str:
    """The dashboard's URL: the option's, else as the environment has it, else this machine's.

    Raises:
        UserError: it is not http(s).
    """
    ray_address = environment.get("RAY_ADDRESS", "")
    inherited = ray_address if re.match("https?://", ray_address) else ""
    address = option or environment.get("RAY_API_SERVER_ADDRESS") or inherited or DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"expected a dashboard's address such as http://HEAD:8265, found {address}")
    return address.rstrip("/")


def auth_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """The HTTP header with the cluster's token; none without a token.

    A token in the environment counts though RAY_AUTH_MODE is not set, which Ray ignores. The file
    in the home folder counts in token mode only: it is this machine's own cluster's.

    Raises:
        UserError: token mode without a token, or a token that cannot be one.
    """
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    path = environment.get("RAY_AUTH_TOKEN_PATH", "")
    token, source = environment.get("RAY_AUTH_TOKEN", "").strip(), "RAY_AUTH_TOKEN"
    if mode == "disabled":
        return {}
    if not token and not path and mode == "token":
        path = str(Path.home() / ".ray" / "auth_token")
        if not Path(path).exists():
            raise UserError(
                "RAY_AUTH_MODE is token and there is none: set RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH to a file that holds it"
            )
    if not token and path:
        token, source = _token_in(path), path
    if any(not "!" <= letter <= "~" for letter in token):
        raise UserError(f"{source} holds no token: expected one word of plain letters")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _token_in(path: str) -> str:
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token in {path}: {error}") from error
    if not token:
        raise UserError(f"the file for the token is empty: {path}")
    return token


class Cluster:
    """The jobs and the nodes of a cluster."""

    def __init__(self, address: str) -> None:
        """Takes the dashboard's URL, and the token from the environment.

        Raises:
            UserError: nothing answers there, or it wants another token.
        """
        self.address = address
        headers = auth_headers(os.environ)
        _check_answer(address, headers)
        # Ray's clients let the environment override the address that they are given.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with self._translated():
            self._jobs = JobSubmissionClient(address, headers=dict(headers))
            self._states = StateApiClient(address, headers=dict(headers))
        self._jobs._do_request = _with_timeouts(self._jobs._do_request)

    def nodes(self) -> list[Node]:
        """Every living node, and those that FACEVAE_NODE_GROUPS says could be added."""
        options = ListApiOptions(limit=10_000, timeout=int(ANSWER_SECONDS), detail=True)
        with self._translated():
            states = self._states.list(StateResource.NODES, options, raise_on_missing_output=False)
        alive = [state for state in states if state.state == "ALIVE"]
        here = [node_of(state.resources_total, state.labels or {}) for state in alive]
        groups = [(state.labels or {}).get(GROUP_LABEL) for state in alive]
        return here + nodes_to_come(declared_groups() or [], here, groups)

    def submit(self, request: JobRequest) -> None:
        """Upload the folder, unless the cluster has it, and start the job.

        Raises:
            UserError: the folder is too large, or the cluster refuses the job.
        """
        try:
            with self._translated():
                self._jobs.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=request.submission_id,
                    runtime_env={"working_dir": str(request.working_dir), "env_vars": STOP_GRACE},
                    metadata=dict(request.metadata),
                )
        except _RefusedError as error:
            raise UserError(f"{self.address} refuses the job: {error.reason}") from error

    def job(self, submission_id: str) -> Job | None:
        """The state of a job; none if the cluster knows no job of that name."""
        try:
            with self._translated():
                details = self._jobs.get_job_info(submission_id)
        except _RefusedError as error:
            if error.status == 404:
                return None
            raise UnreachableError(error.reason) from error
        return _job(details) if details.submission_id else None

    def jobs(self) -> list[Job]:
        """The submitted jobs, newest first."""
        try:
            with self._translated():
                every = self._jobs.list_jobs()
        except _RefusedError as error:
            raise UnreachableError(error.reason) from error
        jobs = [_job(details) for details in every if details.submission_id]
        return sorted(jobs, key=lambda job: job.start_ms or 0, reverse=True)

    def log(self, submission_id: str) -> str | None:
        """The whole log of a job; none if it is lost, as with the node that held it."""
        try:
            with self._translated():
                log: str = self._jobs.get_job_logs(submission_id)
        except _RefusedError:
            return None
        return log

    async def tail(self, submission_id: str) -> AsyncGenerator[str, None]:
        """A job's log in pieces, from its start, as it grows.

        Ends with the job, and as well when the connection breaks or says nothing for long.
        """
        async with aclosing(self._jobs.tail_job_logs(submission_id)) as pieces:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        piece: str = await anext(pieces)
                except (StopAsyncIteration, aiohttp.ClientError, OSError, RuntimeError):
                    return
                yield piece

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; it gets SIGTERM, and SIGKILL a minute later, if `submit` sent it."""
        try:
            with self._translated():
                self._jobs.stop_job(submission_id)
        except _RefusedError as error:
            raise UnreachableError(error.reason) from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A block in which what Ray's clients raise becomes one of three kinds."""
        try:
            yield
        except AuthenticationError as error:
            raise UserError(f"{self.address} refuses the token now: take the new one") from error
        except (requests.RequestException, ConnectionError) as error:
            raise UnreachableError(str(error)) from error
        except RayStateApiException as error:
            raise UserError(
                f"{self.address} does not list its nodes: {_last_line(error)}"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise _RefusedError(error) from error


class _RefusedError(Exception):
    """The cluster answers, and says no."""

    def __init__(self, error: Exception) -> None:
        found = re.search(r"status code (\d+)", str(error))
        self.status = int(found[1]) if found else 0
        self.reason = _last_line(error)


def _last_line(error: Exception) -> str:
    """The line of a remote traceback that says what happened."""
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1][:400] if lines else type(error).__name__


def _job(details: Any) -> Job:
    return Job(
        details.submission_id,
        details.status.value,
        details.message or "",
        details.driver_exit_code,
        details.start_time,
        details.end_time,
        details.metadata or {},
    )


def _check_answer(address: str, headers: dict[str, str]) -> None:
    """One quick question, since Ray's clients wait for ever."""
    url, timeout = f"{address}/api/version", (CONNECT_SECONDS, ANSWER_SECONDS / 3)
    try:
        answer = requests.get(url, headers=headers, timeout=timeout)
    except requests.exceptions.SSLError as error:
        raise UserError(f"{address} has no certificate that is trusted here: {error}") from error
    except requests.RequestException as error:
        raise UserError(
            f"no Ray cluster answers at {address}: start it, open a way to it (ssh -L, kubectl "
            "port-forward), or give another --address"
        ) from error
    if answer.status_code == 401:
        raise UserError(
            f"{address} wants a token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that "
            "holds it, and RAY_AUTH_MODE=token"
        )
    if answer.status_code == 403:
        raise UserError(f"{address} refuses the token: set RAY_AUTH_TOKEN to that of this cluster")
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise UserError(
            f"{address} does not answer as the dashboard of a Ray cluster does (status "
            f"{answer.status_code}): wait until it is up, or give another --address"
        )


def _with_timeouts(do_request: Any) -> Any:
    """Ray's request, with an end to waiting."""

    def request(method: str, endpoint: str, **settings: Any) -> Any:
        # The first number bounds the sending of a body as well.
        timeout = (CONNECT_SECONDS, ANSWER_SECONDS) if method == "GET" else UPLOAD_SECONDS
        return do_request(method, endpoint, timeout=timeout, **settings)

    return request
