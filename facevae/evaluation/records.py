"""What is measured of each shard, one file per shard: a pass that goes on takes it from there."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from facevae.data.shard_files import NAME_PATTERN, Shard
from facevae.errors import UNREADABLE, UserError
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.runs.retries import reason_of

MEASURES, EDITS = "measures", "edits"
WRITTEN = dict.fromkeys((MEASURES, EDITS), rf"{NAME_PATTERN}\.npz")
"""what workers write, by folder"""


def record_uri(output: str, folder: str, shard: str) -> str:
    """Where a record of a shard lies."""
    return storage.join(output, folder, f"{shard}.npz")


def write_record(output: str, folder: str, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what was measured of a shard, whole or not at all."""
    uri = record_uri(output, folder, shard.name)
    with storage.atomic_file(uri, fsync=False) as path, path.open("wb") as file:
        named: dict[str, Any] = {**arrays, "shard_sha256": np.array(shard.sha256)}
        np.savez(file, **named)


def find_record(output: str, folder: str, shard: Shard) -> dict[str, np.ndarray] | None:
    """What was measured of a shard; none if nothing was, or the file is damaged."""
    uri = record_uri(output, folder, shard.name)
    if not storage.exists(uri):
        return None
    content = storage.read_bytes(uri)
    try:
        arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
        # What is no array comes as bytes, unread and unchecked.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
    except UNREADABLE as error:
        log(f"{uri} is damaged ({reason_of(error)}); its shard is measured again")
        return None
    return arrays if str(arrays.pop("shard_sha256", "")) == shard.sha256 else None


def read_record(output: str, folder: str, shard: Shard) -> dict[str, np.ndarray]:
    """What was measured of a shard.

    Raises:
        UserError: it is gone, or damaged, since it was written.
    """
    found = find_record(output, folder, shard)
    if found is None:
        raise UserError(
            f"{record_uri(output, folder, shard.name)} was damaged meanwhile: give the same "
            "command again"
        )
    return found
