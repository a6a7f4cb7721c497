"""What must hold after the pipeline has gone through faults: that nothing tells of them."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow.parquet as pq

from tests.chaos.schedule import CHECKPOINT_EVERY, LOG_EVERY, STEPS

SAME_BYTES = re.compile(
    r"shards/(data|records)/.*|shards/quarantine\.csv|train/model/model\.safetensors"
    r"|train/grids/.*|attributes/(latents|statistics)/.*|attributes/attribute_vectors\.h5"
    rf"|train/checkpoints/step_{STEPS:07d}/(model|training)\.safetensors"
    rf"|train/checkpoints/step_{STEPS:07d}/optimizer\.pt"
)
"""files that are the same, bit for bit"""
CHECKPOINT = re.compile(r"train/checkpoints/(step_\d+)/(.*)")
CHECKPOINTS_KEPT = 3 + 1
"""the newest, and the best"""
TIMES = ("images_per_second", "waiting_for_data")
"""what no two runs share"""
LAST_CHECKPOINT = f"train/checkpoints/step_{STEPS:07d}/training.json"


class RunRecord(NamedTuple):
    """An MLflow run."""

    command: str
    status: str
    metrics: dict[str, list[tuple[int, float]]]
    """(step, value) of every point that is stored, by metric"""
    starts: str = ""
    """the steps at which training began anew"""


class Outcome(NamedTuple):
    """What the pipeline left: its files by their path, and its runs."""

    files: dict[str, bytes]
    runs: list[RunRecord]


def completed(found: Outcome, quiet: Outcome, commands: Sequence[str]) -> Outcome:
    """What some commands left, with what the quiet run's other commands did."""
    others = {
        name: content for name, content in quiet.files.items() if _command_of(name) not in commands
    }
    runs = [run for run in quiet.runs if run.command not in commands]
    return Outcome({**found.files, **others}, [*found.runs, *runs])


def _command_of(name: str) -> str:
    return name.partition("/")[0]


def broken_laws(found: Outcome, quiet: Outcome) -> list[str]:
    """What is lost, repeated, changed or left over, a line each; `quiet` is what nothing hit."""
    names = [*_names(found, quiet)]
    if any(line.startswith("lost") for line in names):
        return names  # the others would fail for want of files
    laws = (_bytes, _manifests, _images, _checkpoints, _histories, _runs)
    return [*names, *(line for law in laws for line in law(found, quiet))]


def _names(found: Outcome, quiet: Outcome) -> Iterator[str]:
    ours, theirs = (
        {name for name in each.files if not CHECKPOINT.fullmatch(name)} for each in (found, quiet)
    )
    yield from (f"lost: {name}" for name in sorted(theirs - ours))
    yield from (f"left over: {name}" for name in sorted(ours - theirs))
    if LAST_CHECKPOINT not in found.files:
        yield f"lost: {LAST_CHECKPOINT}"


def _bytes(found: Outcome, quiet: Outcome) -> Iterator[str]:
    for name, content in quiet.files.items():
        if SAME_BYTES.fullmatch(name) and found.files.get(name) != content:
            yield f"changed: {name}"


def _manifests(found: Outcome, quiet: Outcome) -> Iterator[str]:
    ours, theirs = (_json(each, "shards/manifest.json") for each in (found, quiet))
    if ours["digest"] != theirs["digest"]:
        yield f"the data set's digest is {ours['digest']}, not {theirs['digest']}"


def _images(found: Outcome, _quiet: Outcome) -> Iterator[str]:
    """Every image once: in the shards, in the statistics and in the vectors' file."""
    shards = _json(found, "shards/manifest.json")["shards"]
    rows = sum(shard["rows"] for shard in shards)
    stored = Counter(
        image_id
        for shard in shards
        for image_id in _column(found.files[f"shards/data/{shard['name']}.parquet"], "image_id")
    )
    counted = 0
    for shard in shards:
        content = found.files[f"attributes/statistics/{shard['name']}.npz"]
        with np.load(io.BytesIO(content)) as arrays:
            counted += int(arrays["count"]) + int(arrays["rejected"])
    with h5py.File(io.BytesIO(found.files["attributes/attribute_vectors.h5"])) as file:
        encoded = Counter(name.decode() for name in file["image_ids"][:])
    for where, images in (("the shards", stored), ("attribute_vectors.h5", encoded)):
        repeated = [name for name, count in images.items() if count > 1]
        if repeated:
            yield f"repeated: {len(repeated)} images in {where}, such as {repeated[0]}"
    if not rows == counted == len(stored) or stored.keys() != encoded.keys():
        yield (
            f"images: {rows} in the manifest, {len(stored)} in shards, {counted} counted, "
            f"{len(encoded)} with a latent"
        )


def _checkpoints(found: Outcome, _quiet: Outcome) -> Iterator[str]:
    matches = [match for name in found.files if (match := CHECKPOINT.fullmatch(name))]
    folders = {match[1] for match in matches}
    whole = {match[1] for match in matches if match[2] == "training.json"}
    if len(folders) > CHECKPOINTS_KEPT:
        yield f"left over: {len(folders)} checkpoints"
    yield from (f"left over: a part of checkpoint {each}" for each in sorted(folders - whole))


def _histories(found: Outcome, quiet: Outcome) -> Iterator[str]:
    short = short_means(next(run.starts for run in found.runs if run.command == "train"))
    ours, theirs = (_points(_json(e, LAST_CHECKPOINT)["history"], short) for e in (found, quiet))
    yield from (f"repeated: {key} of step {step}" for (step, key), n in _often(ours) if n > 1)
    if sorted(ours) != sorted(theirs):
        differing = sorted({(s, k) for s, k, _ in {*ours} ^ {*theirs}})
        yield f"the history differs, first at {differing[:3]}"


def _points(history: list[dict[str, float]], short: set[int]) -> list[tuple[int, str, float]]:
    """(step, metric, value) of a history, without rates and the means that are short of a part."""
    return [
        (int(row["step"]), key, value)
        for row in history
        for key, value in row.items()
        if key != "step" and _is_exact(key, int(row["step"]), short)
    ]


def _is_exact(key: str, step: int, short: set[int]) -> bool:
    return not key.endswith(TIMES) and not (key.startswith("train/") and step in short)


def _often(points: list[tuple[int, str, float]]) -> Any:
    return Counter((step, key) for step, key, _ in points).items()


def short_means(starts: str) -> set[int]:
    """The steps whose mean lacks what other ranks had before a checkpoint out of turn.

    Such a checkpoint is kept for SIGTERM, and lies between two in turn and two logged means.
    """
    done = [int(step) - 1 for step in starts.split()]
    odd = [step for step in done if step % CHECKPOINT_EVERY and step % LOG_EVERY]
    return {min(STEPS, -(-step // LOG_EVERY) * LOG_EVERY) for step in odd}


def _runs(found: Outcome, quiet: Outcome) -> Iterator[str]:
    commands = Counter(run.command for run in found.runs)
    if commands != Counter(run.command for run in quiet.runs):
        yield f"MLflow has {dict(commands)} runs"
        return
    by_command = {run.command: run for run in quiet.runs}
    for run in found.runs:
        if run.status != "FINISHED":
            yield f"the MLflow run of {run.command} is {run.status}"
        yield from _metrics(run, by_command[run.command])


def _metrics(run: RunRecord, quiet: RunRecord) -> Iterator[str]:
    short = short_means(run.starts)
    for key in sorted(run.metrics.keys() | quiet.metrics.keys()):
        ours, theirs = run.metrics.get(key, []), quiet.metrics.get(key, [])
        steps, expected = (Counter(step for step, _ in points) for points in (ours, theirs))
        if steps != expected:
            more, fewer = steps - expected, expected - steps
            steps = f"{dict(more)} too often, {dict(fewer)} not"
            yield f"MLflow, {run.command}: {key} has steps {steps}"
        elif {p for p in ours if _is_exact(key, p[0], short)} != {
            p for p in theirs if _is_exact(key, p[0], short)
        }:
            yield f"MLflow, {run.command}: {key} has other values"


def _json(outcome: Outcome, name: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] = json.loads(outcome.files[name])
    return value


def _column(parquet: bytes, name: str) -> list[str]:
    names: list[str] = pq.read_table(io.BytesIO(parquet), columns=[name])[name].to_pylist()
    return names
