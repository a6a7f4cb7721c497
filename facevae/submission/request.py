"""What is sent for a job: its name, its command, the folder it needs, and how it is found again."""

import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

import facevae
from facevae import storage
from facevae.errors import UserError


class JobRequest(NamedTuple):
    """A job to start. Nothing of the client's environment is part of it."""

    submission_id: str
    entrypoint: str
    working_dir: Path
    metadata: dict[str, str]


def job_request(
    verb: str, arguments: Sequence[str], config: Any, working_dir: str, submission_id: str | None
) -> JobRequest:
    """The job that runs a verb with these arguments.

    Args:
        verb: its name.
        arguments: its options, as on this machine.
        config: what they say; decides nothing here, but names the output.
        working_dir: the source folder, uploaded with the job.
        submission_id: the job's name; none: a new one.

    Raises:
        UserError: the folder is not a source folder, a file of settings would not be uploaded, or
            results would be lost with the job's own folder.
    """
    folder = Path(working_dir).resolve()
    script = f"jobs/{verb}.py"
    if not (folder / script).is_file():
        raise UserError(f"{folder} has no {script}: give facevae's source folder as --working_dir")
    output = config.output
    if storage.is_local(output) and not output.startswith(("/", "file:///")):
        raise UserError(
            f"output {output} is relative, and a job's own folder is deleted after it: give an "
            "absolute path, or a URI, that all nodes share"
        )
    words = ["python", script, *_inside(arguments, folder)]
    metadata = {
        "facevae.verb": verb,
        "facevae.output": output,
        "facevae.experiment": config.tracking.experiment,
        "facevae.version": facevae.__version__,
        "facevae.commit": _commit(folder),
    }
    return JobRequest(
        submission_id or new_submission_id(verb),
        shlex.join(words),
        folder,
        {key: value for key, value in metadata.items() if value},
    )


def new_submission_id(verb: str) -> str:
    """A name that tells what the job is and when it was sent: `train-20261124-110305-ab12`."""
    return f"{verb}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _inside(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """The arguments with the files of settings named from the uploaded folder."""
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--config":
            yield word
            continue
        yield f"--config={_uploaded(value if equals else next(words), folder)}"


def _uploaded(name: str, folder: Path) -> str:
    """The name of a file inside the folder."""
    path = Path(name).resolve()
    if not path.is_relative_to(folder):
        raise UserError(
            f"--config {name} lies outside {folder}, the folder that is uploaded: move it there, "
            "or give a --working_dir that holds both"
        )
    if _is_ignored(path, folder):
        raise UserError(
            f"--config {name} would not be uploaded: .gitignore or .rayignore names it or its "
            "folder; put it elsewhere, such as in configs/"
        )
    return path.relative_to(folder).as_posix()


def _is_ignored(path: Path, folder: Path) -> bool:
    """Whether Ray leaves the file out, by the rules that it packs the folder by."""
    if set(path.relative_to(folder).parts) & set(get_runtime_env_default_excludes()):
        return True
    gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    inner = [parent for parent in path.parents if parent.is_relative_to(folder)]
    rules = [rule for each in inner for rule in get_excludes_from_ignore_files(each, gitignore)]
    places = [path, *inner[:-1]]
    return any(_applies(rule, place) for rule in rules for place in places)


def _applies(rule: Any, place: Path) -> bool:
    try:
        return bool(rule(place))
    except ValueError:  # the rule of a folder below this place
        return False


def _commit(folder: Path) -> str:
    """The commit of the folder, with `-dirty` if files differ; empty outside git.

    The job cannot tell: `.git` is not uploaded.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]  # no tags: the commit alone
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
