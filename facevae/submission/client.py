"""A Ray cluster over HTTP, through its dashboard: its nodes, its jobs, and what is sent for one."""

import os
import re
import secrets
import shlex
import subprocess
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobDetails, JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

import facevae
from facevae.errors import UserError
from facevae.ray_cluster.nodes import Node, declared_groups, planned_nodes
from facevae.runs import storage
from facevae.submission.upload import Upload, look_at_upload

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
STOP_GRACE = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""seconds in which a job that is stopped keeps its last checkpoint; Ray gives three"""
FAULTS = (requests.RequestException, ConnectionError, RuntimeError, RayStateApiException)
"""what Ray's clients raise if a cluster does not answer, or says no"""


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


class Cluster(JobSubmissionClient):  # type: ignore[misc]  # ray is not annotated
    """Ray's client of a cluster's jobs, which does not wait for ever, and knows the nodes.

    Its calls raise one of `FAULTS`, or Ray's `AuthenticationError`.
    """

    def __init__(self, address: str) -> None:
        """Takes the dashboard's URL, and the token where Ray looks for it.

        Raises:
            UserError: nothing answers there as a cluster does.
        """
        self.address = address
        # Ray's clients let the environment override the address that they are given.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        try:
            super().__init__(address)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            raise UserError(
                "RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, holds no token: expected one word"
            ) from None  # the error quotes it
        except (*FAULTS, KeyError) as error:
            raise UserError(
                f"no Ray cluster answers at {address} ({type(error.__context__ or error).__name__})"
                ": start it, open a way to it (ssh -L, kubectl port-forward), or give another "
                "--address"
            ) from error

    def _do_request(self, method: str, endpoint: str, **settings: Any) -> Any:
        # The first number bounds the sending of a body as well.
        timeout = (CONNECT_SECONDS, ANSWER_SECONDS) if method == "GET" else UPLOAD_SECONDS
        return super()._do_request(method, endpoint, timeout=timeout, **settings)

    def nodes(self) -> list[Node]:
        """Every living node, and those that FACEVAE_NODE_GROUPS says could be added."""
        states = list_nodes(
            self.address,
            filters=[("state", "=", "ALIVE")],
            limit=10_000,
            timeout=int(ANSWER_SECONDS),
            detail=True,
            raise_on_missing_output=False,
        )
        living = [(state.resources_total, state.labels or {}) for state in states]
        return planned_nodes(living, declared_groups() or [])

    def job(self, submission_id: str) -> JobDetails:
        """The state of a submitted job.

        Raises:
            UserError: the cluster knows no job of that name.
        """
        try:
            job = self.get_job_info(submission_id)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            job = None
        if job is None or job.submission_id is None:
            raise UserError(
                f"{self.address} knows no job {submission_id}; see facevae submit --list"
            )
        return job


def last_line(error: Exception) -> str:
    """The line of a remote traceback that says what happened."""
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1][:400] if lines else type(error).__name__


def job_request(options: Namespace, config: Any) -> dict[str, Any]:
    """What `submit_job` takes for a command; nothing of this process's environment is part of it.

    Args:
        options: of `command.read_options`.
        config: what the command's own options say; only its names are used here.

    Raises:
        UserError: the folder is not a source folder, or cannot be uploaded; a file of settings
            would not be; or results would be lost with the job's own folder.
    """
    folder = Path(options.working_dir).resolve()
    script = f"jobs/{options.command.replace('-', '_')}.py"
    if not (folder / script).is_file():
        raise UserError(f"{folder} has no {script}: give facevae's source folder as --working_dir")
    output = config.output
    if storage.is_local(output) and not storage.FILE_SCHEME.sub("", output).startswith("/"):
        raise UserError(
            f"output {output} is relative, and a job's own folder is deleted after it: give an "
            "absolute path, or a URI, that all nodes share"
        )
    upload = look_at_upload(folder)
    runtime_env: dict[str, Any] = {"working_dir": str(folder), "env_vars": STOP_GRACE}
    if upload.excludes:
        runtime_env["excludes"] = list(upload.excludes)
    metadata = {
        "facevae.verb": options.command,
        "facevae.output": output,
        "facevae.experiment": config.tracking.experiment,
        "facevae.version": facevae.__version__,
        "facevae.commit": _commit(folder),
    }
    new_id = f"{options.command}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return {
        "submission_id": options.submission_id or new_id,
        "entrypoint": shlex.join(["python", script, *_inside(options.arguments, folder, upload)]),
        "runtime_env": runtime_env,
        "metadata": {key: value for key, value in metadata.items() if value},
    }


def _inside(arguments: Sequence[str], folder: Path, upload: Upload) -> Iterator[str]:
    """The arguments with the files of settings named from the uploaded folder."""
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--config":
            name = value if equals else next(words)
            path = Path(name).resolve()
            if path not in upload.paths:
                raise UserError(
                    f"--config {name} would not be uploaded: it lies outside {folder}, or "
                    ".gitignore or .rayignore names it; put it elsewhere, such as in configs/"
                )
            word = f"--config={path.relative_to(folder).as_posix()}"
        yield word


def _commit(folder: Path) -> str:
    """The commit of the folder, with `-dirty` if files differ; empty outside git.

    The job cannot tell: `.git` is not uploaded.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # no tags
    with suppress(OSError, subprocess.CalledProcessError):
        described = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return described.stdout.strip()
    return ""
