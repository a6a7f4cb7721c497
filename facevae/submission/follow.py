"""A job until its end: its log, shown once and whole however often the connection breaks."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import aiohttp
from ray.job_submission import JobDetails

from facevae.runs.progress import log
from facevae.submission.client import FAULTS, Cluster

RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
"""how long a cluster may be out of reach before the job is given up on"""
SILENCE_SECONDS = 60.0
"""a log that says nothing for so long is asked for again: the connection may be dead"""
STOP_SECONDS = 90.0
"""longer than Ray waits before it kills"""

Write = Callable[[str], None]


def follow(cluster: Cluster, submission_id: str, write: Write) -> JobDetails:
    """Write a job's log until the job is finished; returns its final state.

    Raises:
        UserError: the cluster knows no such job.
        one of `FAULTS`: the cluster has not answered for `PATIENCE_SECONDS`.
    """
    shown, lost_at = 0, None
    while True:
        try:
            job = cluster.job(submission_id)
            whole = _whole_log(cluster, submission_id) if job.status.is_terminal() else None
        except FAULTS:
            if lost_at is None:
                lost_at = time.monotonic()
                log("the cluster is out of reach; trying again")
            elif time.monotonic() - lost_at > PATIENCE_SECONDS:
                raise
        else:
            lost_at = None
            if whole is not None:
                write(whole[shown:])
                return job
            shown = asyncio.run(_show_tail(cluster, submission_id, shown, write))
        time.sleep(RETRY_SECONDS)


async def _show_tail(cluster: Cluster, submission_id: str, shown: int, write: Write) -> int:
    """Write what comes after the letters that are shown, until the connection ends.

    Returns:
        how many letters are shown then.
    """
    start = 0  # each connection begins at the log's start
    async with aclosing(cluster.tail_job_logs(submission_id)) as pieces:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    piece = await anext(pieces)
            except (StopAsyncIteration, aiohttp.ClientError, OSError, RuntimeError):
                return shown
            write(piece[max(shown - start, 0) :])
            start += len(piece)
            shown = max(shown, start)


def _whole_log(cluster: Cluster, submission_id: str) -> str:
    try:
        whole: str = cluster.get_job_logs(submission_id)
    except RuntimeError:
        log("the end of the log is lost with the node that held it")
        return ""
    return whole


def stop(cluster: Cluster, submission_id: str) -> JobDetails:
    """Stop a job and wait for its end; returns its state, not final if Ray could not stop it.

    Raises:
        UserError: the cluster knows no such job.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        job = cluster.job(submission_id)
        if job.status.is_terminal() or time.monotonic() > deadline:
            return job
        # Asked again each time: a job without a driver yet does not hear it.
        cluster.stop_job(submission_id)
        time.sleep(RETRY_SECONDS)


def exit_code(job: JobDetails) -> int:
    """What a shell would say: the driver's code, 143 if stopped, 1 if there was no driver."""
    if job.status.value == "STOPPED":
        return 143
    if job.driver_exit_code is None:
        return 0 if job.status.value == "SUCCEEDED" else 1
    code = int(job.driver_exit_code)
    return code if code >= 0 else 128 - code  # a signal is negative in Ray


def describe(job: JobDetails) -> str:
    """How a job ended, in Ray's own words if it has no driver that failed."""
    status, code = job.status.value, job.driver_exit_code
    failed = f"failed: {job.message}" if code is None else f"failed with exit code {exit_code(job)}"
    endings = {"SUCCEEDED": "succeeded", "STOPPED": "was stopped", "FAILED": failed}
    return f"job {job.submission_id} {endings.get(status, f'is still {status}')}"
