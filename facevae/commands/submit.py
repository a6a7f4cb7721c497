"""`facevae submit`: its own options apart from those of the command that it sends, and its work.

Ray takes seconds to import, so that is done when the options are known to be right.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from facevae.errors import TooSmallError, UserError
from facevae.runs.progress import log

if TYPE_CHECKING:
    from facevae.submission.client import Cluster

USAGE = """facevae submit COMMAND [the command's options] [options of a new job]
       facevae submit --attach ID | --stop ID | --list   [--address URL]"""
DESCRIPTION = """Run a command as a job of a Ray cluster. Its log is shown until it ends, and its
exit code is returned (143 if it was stopped); Ctrl-C leaves it running. The cluster's token is
taken from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH."""
# They tell of every package and every file that names others to ignore.
TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
ROW = "{:<32}  {:<9}  {:<10}  {:<19}  {}"


def options_parser() -> argparse.ArgumentParser:
    """What `facevae submit` itself takes; hyphens do for underscores."""
    parser = argparse.ArgumentParser(
        usage=USAGE,
        description=DESCRIPTION,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add, action = parser.add_argument, parser.add_mutually_exclusive_group()
    add("--address", metavar="URL", help="the cluster's dashboard; else RAY_API_SERVER_ADDRESS, "
        "else RAY_ADDRESS if it is http(s), else http://127.0.0.1:8265")  # fmt: skip
    add("--submission_id", "--submission-id", metavar="ID", help="name of the new job; else "
        "COMMAND-DATE-TIME-XXXX")  # fmt: skip
    add("--working_dir", "--working-dir", metavar="DIR", default=".", help="the source folder to "
        "upload, without what .gitignore and .rayignore name; else the current one")  # fmt: skip
    add("--no_wait", "--no-wait", action="store_true", help="print the new job's id and return")
    add("--dry_run", "--dry-run", action="store_true", help="print what the command would take of "
        "the cluster, and send nothing")  # fmt: skip
    action.add_argument("--attach", metavar="ID", help="show a job's log from its start on")
    action.add_argument("--stop", metavar="ID", help="stop a job, and wait until it is stopped")
    action.add_argument("--list", action="store_true", help="list the jobs, newest first")
    return parser


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """The options, with the `command` to send (or none) and the `arguments` that are its own.

    Raises:
        UserError: no command and nothing else to do, options that exclude each other, or an id
            that cannot be one.
    """
    try:
        options, rest = options_parser().parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    has_action = options.list or options.attach is not None or options.stop is not None
    is_new = options.submission_id is not None or options.no_wait or options.dry_run
    if has_action and (rest or is_new):
        raise UserError(
            "--attach, --stop and --list take no command, no settings, and none of "
            "--submission_id, --no_wait and --dry_run, which belong to a new job"
        )
    if not has_action and (not rest or rest[0].startswith("-")):
        raise UserError("name the command first, or --attach, --stop or --list; see --help")
    for submission_id in (options.submission_id, options.attach, options.stop):
        if submission_id is not None and not re.fullmatch(r"\w[\w.-]*", submission_id):
            raise UserError(
                f"'{submission_id}' cannot be a job's id: expected letters, digits, '_', '.', '-'"
            )
    if not options.working_dir:
        raise UserError("--working_dir is empty: give facevae's source folder, or leave it out")
    options.command, options.arguments = (None, []) if has_action else (rest[0], rest[1:])
    return options


def run(options: argparse.Namespace, config: Any) -> int:
    """Do what the options ask for; returns the exit code.

    Args:
        options: of `read_options`.
        config: the command's settings; none without a command.

    Raises:
        UserError: found before anything was sent, or no such job.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # which Ray reads when it is imported
    from ray.exceptions import AuthenticationError

    from facevae.submission import client, follow

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    address = client.cluster_address(options.address, os.environ)
    try:
        if options.command is not None:
            return _submit(address, options, config)
        cluster = client.Cluster(address)
        if options.attach is not None:
            return _follow(cluster, options.attach)
        if options.list:
            return _list(cluster)
        job = follow.stop(cluster, options.stop)
        log(follow.describe(job))
        return 0 if job.status.is_terminal() else 1
    except AuthenticationError as error:
        raise UserError(
            f"{address} needs the cluster's token in RAY_AUTH_TOKEN, or in the file that "
            f"RAY_AUTH_TOKEN_PATH names: {error.message.splitlines()[0]}"
        ) from error
    except client.FAULTS as error:
        log(f"facevae submit: {address} does not answer as it should: {client.last_line(error)}")
        return 1


def _submit(address: str, options: argparse.Namespace, config: Any) -> int:
    from facevae.commands.plan import describe_plan
    from facevae.submission import client

    request = client.job_request(options, config)
    cluster = client.Cluster(address)
    try:
        plan = describe_plan(options.command, config, cluster.nodes())
    except TooSmallError as error:
        raise UserError(
            f"{error}; nodes that an autoscaler would add count if FACEVAE_NODE_GROUPS tells of "
            "them, as docs/cluster.md shows"
        ) from error
    if options.dry_run:
        print("\n".join(plan))
        return 0
    try:
        submission_id = cluster.submit_job(**request)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{address} refuses the job: {client.last_line(error)}") from error
    log(f"job {submission_id} is submitted to {address}")
    if options.no_wait:
        print(submission_id)
        return 0
    return _follow(cluster, submission_id)


def _follow(cluster: "Cluster", submission_id: str) -> int:
    from facevae.submission import follow

    hint = f"goes on; --attach {submission_id} follows it, --stop {submission_id} stops it"
    try:
        job = follow.follow(cluster, submission_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        log(f"detached: job {submission_id} {hint}")
        return 130
    except BrokenPipeError:
        log(f"detached, since nothing reads the log: job {submission_id} {hint}")
        # Python would write what is left at its end, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    log(follow.describe(job))
    return follow.exit_code(job)


def _list(cluster: "Cluster") -> int:
    jobs = [job for job in cluster.list_jobs() if job.submission_id]
    print(ROW.format("ID", "STATUS", "COMMAND", "STARTED", "OUTPUT"))
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        started = f"{datetime.fromtimestamp((job.start_time or 0) / 1000):%Y-%m-%d %H:%M:%S}"
        known = {"facevae.verb": "-", "facevae.output": "-"} | (job.metadata or {})
        job_id, status = job.submission_id, job.status.value
        print(ROW.format(job_id, status, known["facevae.verb"], started, known["facevae.output"]))
    return 0
