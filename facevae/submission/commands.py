"""What `facevae submit` does: send a verb's job, follow one, stop one, list them."""

import logging
import os
import sys
import time
from datetime import datetime, timedelta
from typing import Any

from facevae.errors import TooSmallError, UserError
from facevae.progress import say
from facevae.runtime import GROUPS_VARIABLE, declared_groups
from facevae.submission.cluster import Cluster, Job, UnreachableError, cluster_address
from facevae.submission.follow import follow, job_log
from facevae.submission.options import Options
from facevae.submission.request import job_request

# They tell of every package and every file that names others to ignore.
TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
DETACHED = 130
"""exit code after Ctrl-C, as of a shell"""
POLL_SECONDS = 0.5
STOP_SECONDS = 90.0
"""longer than Ray waits before it kills"""


def run(options: Options, config: Any) -> int:
    """Do what the options ask for; returns the exit code.

    Args:
        options: of `facevae submit`.
        config: the verb's settings; none without a verb.

    Raises:
        UserError: found before anything was sent, or no such job.
    """
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    address = cluster_address(options.address, os.environ)
    try:
        if options.attach is not None:
            return _attach(Cluster(address), options.attach)
        if options.stop is not None:
            return _stop(Cluster(address), options.stop)
        if options.list:
            return _list(Cluster(address))
        return _submit(address, options, config)
    except UnreachableError as error:
        say(f"facevae submit: {address} does not answer any more: {error}")
        return 1


def _submit(address: str, options: Options, config: Any) -> int:
    assert options.verb is not None, "asked for no other action"
    request = job_request(
        options.verb, options.arguments, config, options.working_dir, options.submission_id
    )
    submission_id = request.submission_id
    cluster = Cluster(address)
    # The plan imports torch, which following a job need not wait for.
    from facevae.verbs.plan import describe_plan

    try:
        plan = describe_plan(options.verb, config, cluster.nodes())
    except TooSmallError as error:
        if declared_groups() is not None:
            raise
        raise UserError(
            f"{error}; or, if an autoscaler would add them, tell of its nodes in "
            f"{GROUPS_VARIABLE}, as README.md shows"
        ) from error
    if options.dry_run:
        print("\n".join(plan))
        return 0
    taken = cluster.job(submission_id)
    if taken is not None:
        raise UserError(
            f"there is a job {submission_id} already ({taken.status}), and ids are used once: "
            f"choose another, or follow it with --attach {submission_id}"
        )
    try:
        cluster.submit(request)
    except KeyboardInterrupt:
        say(f"interrupted; --list tells whether {address} has got job {submission_id}")
        return DETACHED
    say(f"job {submission_id} is submitted to {address}")
    if options.no_wait:
        print(submission_id)
        return 0
    return _follow(cluster, submission_id)


def _attach(cluster: Cluster, submission_id: str) -> int:
    _existing(cluster, submission_id)
    return _follow(cluster, submission_id)


def _existing(cluster: Cluster, submission_id: str) -> Job:
    job = cluster.job(submission_id)
    if job is None:
        raise UserError(
            f"{cluster.address} knows no job {submission_id}; see facevae submit --list"
        )
    return job


def _follow(cluster: Cluster, submission_id: str) -> int:
    hint = f"--attach {submission_id} follows it, --stop {submission_id} stops it"
    try:
        with job_log() as write:
            job = follow(cluster, submission_id, write)
    except KeyboardInterrupt:
        say(f"detached: job {submission_id} goes on; {hint}")
        return DETACHED
    except BrokenPipeError:
        say(f"detached, since nothing reads the log: job {submission_id} goes on; {hint}")
        # Python would write what is left at its end, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UnreachableError:
        say(f"gave up on {cluster.address}; job {submission_id} may go on: {hint}")
        return 1
    say(_ending(job))
    return job.exit_code


def _ending(job: Job) -> str:
    """How a job ended; with Ray's own words if its driver has none."""
    if job.status == "FAILED" and job.driver_exit_code is None:
        return f"job {job.submission_id} failed: {job.message}"
    if job.status == "FAILED":
        return f"job {job.submission_id} failed with exit code {job.exit_code}"
    return f"job {job.submission_id} {'was stopped' if job.status == 'STOPPED' else 'succeeded'}"


def _stop(cluster: Cluster, submission_id: str) -> int:
    job = _existing(cluster, submission_id)
    if job.is_finished:
        say(f"nothing to stop: {_ending(job)}")
        return 0
    deadline = time.monotonic() + STOP_SECONDS
    while not job.is_finished:
        if time.monotonic() > deadline:
            say(f"job {submission_id} is still {job.status} after {STOP_SECONDS:g} s")
            return 1
        # Asked again each time: a job without a driver yet does not hear it.
        cluster.stop(submission_id)
        time.sleep(POLL_SECONDS)
        job = _existing(cluster, submission_id)
    say(_ending(job))
    return 0


def _list(cluster: Cluster) -> int:
    rows = [_row(job) for job in cluster.jobs()]
    if not rows:
        say(f"{cluster.address} has no jobs")
        return 0
    rows.insert(0, ("ID", "STATUS", "VERB", "STARTED", "TOOK", "OUTPUT"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
    return 0


def _row(job: Job) -> tuple[str, ...]:
    started, took = "-", "-"
    if job.start_ms is not None:
        started = f"{datetime.fromtimestamp(job.start_ms / 1000):%Y-%m-%d %H:%M:%S}"
        end_ms = job.end_ms if job.end_ms else time.time() * 1000
        took = str(timedelta(seconds=max(0, round((end_ms - job.start_ms) / 1000))))
    verb, output = (job.metadata.get(f"facevae.{key}", "-") for key in ("verb", "output"))
    return job.submission_id, job.status, verb, started, took, output
