"""The command line of `facevae submit`: its own options apart from those of the verb."""

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from facevae.errors import UserError

USAGE = """\
usage: facevae submit VERB [the verb's options] [--address URL] [--submission_id ID]
                      [--working_dir DIR] [--no_wait] [--dry_run]
       facevae submit --attach ID | --stop ID | --list   [--address URL]

Run a verb as a job of a Ray cluster. Its log is shown until it ends, and its exit code is
returned (143 if it was stopped); Ctrl-C leaves it running.

  --address URL        the cluster's dashboard; else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if
                       it is http(s), else http://127.0.0.1:8265
  --submission_id ID   name of the job; else VERB-DATE-TIME-XXXX
  --working_dir DIR    the source folder to upload, without what .gitignore and .rayignore name;
                       else the current one
  --no_wait            print the job's id and return
  --dry_run            print what the verb would take of the cluster, and send nothing
  --attach ID          show a job's log from its start, and follow it
  --stop ID            stop a job, and wait until it is stopped
  --list               list the cluster's jobs, newest first

The cluster's token is taken from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH."""


class Options(NamedTuple):
    """What `facevae submit` was asked to do, and the words that are the verb's."""

    verb: str | None
    arguments: list[str]
    address: str | None
    submission_id: str | None
    working_dir: str
    no_wait: bool
    dry_run: bool
    attach: str | None
    stop: str | None
    list: bool


def read_options(words: Sequence[str]) -> Options:
    """The options; hyphens do for underscores.

    Raises:
        UserError: no verb and nothing else to do, options that exclude each other, or an id that
            cannot be one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--address")
    parser.add_argument("--submission_id", "--submission-id")
    parser.add_argument("--working_dir", "--working-dir", default=".")
    parser.add_argument("--no_wait", "--no-wait", action="store_true")
    parser.add_argument("--dry_run", "--dry-run", action="store_true")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--attach")
    action.add_argument("--stop")
    action.add_argument("--list", action="store_true")
    try:
        known, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    has_action = known.list or known.attach is not None or known.stop is not None
    if has_action and rest:
        raise UserError(f"--attach, --stop and --list take no verb or settings, found {rest[0]}")
    if has_action and (known.submission_id is not None or known.no_wait or known.dry_run):
        raise UserError(
            "--submission_id, --no_wait and --dry_run belong to a new job, not to one that exists"
        )
    if not has_action and (not rest or rest[0].startswith("-")):
        raise UserError("name the verb first, or --attach, --stop or --list; see --help")
    for submission_id in (known.submission_id, known.attach, known.stop):
        if submission_id is not None and not re.fullmatch(r"\w[\w.-]*", submission_id):
            raise UserError(
                f"'{submission_id}' cannot be a job's id: expected letters, digits, '_', '.', '-'"
            )
    verb, arguments = (None, []) if has_action else (rest[0], rest[1:])
    return Options(verb=verb, arguments=arguments, **vars(known))
