"""What is measured of each shard, one file per shard: a pass that goes on takes it from there."""

from collections.abc import Mapping

import numpy as np

from facevae.data.shard_files import NAME_PATTERN, Shard
from facevae.data.shard_records import find_shard_record, write_shard_record
from facevae.errors import UserError
from facevae.runs import storage

MEASURES, EDITS = "measures", "edits"
WRITTEN = dict.fromkeys((MEASURES, EDITS), rf"{NAME_PATTERN}\.npz")
"""what workers write, by folder"""


def record_uri(output: str, folder: str, shard: str) -> str:
    """Where a record of a shard lies."""
    return storage.join(output, folder, f"{shard}.npz")


def write_record(output: str, folder: str, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what was measured of a shard, whole or not at all."""
    write_shard_record(record_uri(output, folder, shard.name), shard.sha256, arrays)


def find_record(output: str, folder: str, shard: Shard) -> dict[str, np.ndarray] | None:
    """What was measured of a shard; none if nothing was, or the file is damaged."""
    uri = record_uri(output, folder, shard.name)
    return find_shard_record(uri, shard.sha256, "measured again")


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
