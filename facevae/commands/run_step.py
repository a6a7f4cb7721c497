"""The shell of every command: done already, lock, claim, MLflow run, result.

A command is its own work and little else: it finds out what is wrong before anything is marked as
its own (`prepare`), and then works. Only this file knows of locks, claims and `result.json`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from facevae.config import TrackingConfig
from facevae.errors import UserError
from facevae.ray_cluster.this_job import submission_id
from facevae.runs import storage
from facevae.runs.lock import run_lock
from facevae.runs.progress import log
from facevae.tracking import Run, RunId, read_run_id, start_run

RESULT = "result.json"
REMEDY = "choose another --output to start afresh, or repeat the old settings to go on"
OTHER_SHARDS = (
    "the images are not those that it was begun with: put those back to go on, or choose another "
    "--output to start afresh"
)
"""the remedy where shards are known by their digest"""
Metrics = dict[str, float]
"""metrics by name; NaN: there is none, which is null in `result.json`"""
NAMED = 3
"""how many of the metrics without a value a line names"""


class Step(NamedTuple):
    """What a command does, and how its output folder tells what it is of."""

    command: str
    output: str
    """the folder, absolute"""
    tracking: TrackingConfig
    claim: str
    """the file of the folder that keeps what it is of"""
    identity: Mapping[str, Any]
    """what may not change when a run goes on, JSON-able; a setting that is not chosen yet is left
    out"""
    product: str | None
    """the file without which a result is none; none: the command goes on whenever it is given"""
    written: Mapping[str, str]
    """regular expressions of the names that the step writes, by folder below its own ("": that):
    a folder that is new to it must not hold them"""
    defaults: Mapping[str, Any] = {}
    """the identity of a folder whose version had not all of today's settings"""
    remedies: Mapping[str, str] = {}
    """what to do where the folder is of another value, by key of the identity (joined by dots)"""
    paths: Collection[str] = ()
    """what of the identity is a path, its keys joined by dots; earlier versions claimed folders
    with the user's spelling"""
    why_missing: str = "it came out as no finite number"
    """why a metric may have no value"""
    growing: Collection[str] = ()
    """keys of the identity whose numbers may be raised when a run goes on, or after its end"""
    is_reusable: bool = False
    """whether the folder may be used for something else, instead of what it was used for"""


class Work(NamedTuple):
    """A step of which nothing is wrong any more: what is recorded of it, and what does it."""

    settings: Mapping[str, Any]
    """the resolved configuration, JSON-able"""
    identity: Mapping[str, Any]
    """that of the step, with all that was chosen since"""
    run: Callable[[Run], Metrics]
    model_run: RunId | None = None
    """the training run whose model is used"""


def run_step(step: Step, prepare: Callable[[Mapping[str, Any]], Work]) -> Metrics:
    """Do a step, or go on with it, or find it done.

    Args:
        step: which.
        prepare: makes ready what works, given the identity that the folder was claimed with (empty:
            none yet); raises what the user may have to mend, for the folder is not claimed before.

    Returns:
        The metrics of the work, which `result.json` has too. A line names those without a value,
        and says why.

    Raises:
        UserError: the folder is of something else, or another driver is at work on it.
    """
    metrics = _do_step(step, prepare)
    missing = [name for name, value in metrics.items() if not math.isfinite(value)]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        log(f"{step.command}: n/a for {', '.join(missing[:NAMED])}{more}: {step.why_missing}")
    return metrics


def _do_step(step: Step, prepare: Callable[[Mapping[str, Any]], Work]) -> Metrics:
    claimed = _check_claim(step)
    result = storage.join(step.output, RESULT)
    if claimed and not _has_grown(step, claimed) and _is_done(step):
        log(f"already done: {step.output}")
        return read_result(step.output)
    storage.make_folder(step.output)
    with run_lock(step.output, f"facevae {step.command}", submission_id()):
        claimed = _check_claim(step)  # again: another driver may have been at work
        work = prepare(claimed)
        if not claimed or _has_grown(step, claimed):
            storage.remove_file(result)  # of what this command did here before
        storage.write_json(storage.join(step.output, step.claim), work.identity)
        with start_run(
            step.tracking,
            step.command,
            step.output,
            work.settings,
            model_run=work.model_run,
            submission_id=submission_id(),
            work=storage.value_digest(work.identity) if step.is_reusable else "",
        ) as run:
            metrics = work.run(run)
        write_result(step.output, metrics)
    return metrics


def write_result(output: str, metrics: Metrics) -> None:
    """Write the metrics that a command ends with; null where there is no finite number."""
    storage.write_json(storage.join(output, RESULT), storage.without_nan(metrics))


def read_result(place: str) -> Metrics:
    """The metrics that a command ended with; NaN for null.

    Args:
        place: its output folder, or the file.

    Raises:
        UserError: there are none.
    """
    uri = storage.absolute(place)
    uri = uri if uri.endswith(".json") else storage.join(uri, RESULT)
    if not storage.exists(uri):
        raise UserError(f"there is no {uri}: give the output folder of a finished command")
    result = storage.read_json(uri)
    kinds = float | int | None
    if not isinstance(result, dict) or not all(isinstance(v, kinds) for v in result.values()):
        raise UserError(f"{uri} is not the {RESULT} of a command")
    return {name: math.nan if value is None else float(value) for name, value in result.items()}


def _is_done(step: Step) -> bool:
    names = (RESULT, step.product)
    return step.product is not None and all(_has(step, name) for name in names if name)


def _has(step: Step, name: str) -> bool:
    return storage.exists(storage.join(step.output, name))


def _check_claim(step: Step) -> dict[str, Any]:
    """What the folder was claimed for by this step before; empty: it was not.

    Raises:
        UserError: it is of something else, and may not be reused.
    """
    if not _has(step, step.claim):
        # A version without this claim left its product, and no other command leaves that.
        is_own = step.is_reusable and step.product is not None and _has(step, step.product)
        if not (is_own and read_run_id(step.output)):
            for folder, names in step.written.items():
                storage.refuse_foreign(f"{step.output}/{folder}".rstrip("/"), names)
        return {}
    theirs = dict(storage.read_json(storage.join(step.output, step.claim)))
    old = dict(_flatten(step.defaults)) | dict(_flatten(theirs))
    for key, value in _flatten(step.identity):
        if key in old and _may_be(step, key, old[key], value):
            continue
        if step.is_reusable:
            return {}
        raise of_another(step.output, key, old.get(key), value, step.remedies.get(key, REMEDY))
    return theirs


def _has_grown(step: Step, claimed: Mapping[str, Any]) -> bool:
    """Whether more is asked for than the folder was claimed for."""
    there, here = dict(_flatten(claimed)), dict(_flatten(step.identity))
    return any(here[key] != there.get(key, here[key]) for key in step.growing)


def _may_be(step: Step, key: str, there: Any, here: Any) -> bool:
    """Whether a run that was begun with a value goes on with another one."""
    if there == here or (key in step.growing and here > there):
        return True
    return key in step.paths and _is_same(there, here)


def of_another(output: str, key: str, there: Any, here: Any, remedy: str) -> UserError:
    """What a folder that was claimed for something else is refused with."""
    return UserError(f"{output} is of another {key} ({there} there, {here} here); {remedy}")


def _is_same(path: str | None, other: str | None) -> bool:
    """Whether two spellings are of one place."""
    if path is None or other is None:
        return path is other
    return storage.absolute(path) == storage.absolute(other)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings with their keys joined by dots; a list counts as one value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
