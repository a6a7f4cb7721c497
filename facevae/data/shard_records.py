"""What a pass over shards leaves of each: arrays in one file, bound to the shard by its digest."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from facevae.errors import UNREADABLE
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.runs.retries import reason_of

DIGEST = "shard_sha256"


def write_shard_record(uri: str, sha256: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of the shard with that digest, whole or not at all."""
    with storage.atomic_file(uri, fsync=False) as path, path.open("wb") as file:
        named: dict[str, Any] = {**arrays, DIGEST: np.array(sha256)}
        np.savez(file, **named)


def find_shard_record(uri: str, sha256: str, remedy: str) -> dict[str, np.ndarray] | None:
    """The arrays of the shard with that digest; none: of no shard, of another, or damaged.

    Args:
        uri: the file.
        sha256: the digest.
        remedy: what is done where the file is damaged, for the line that says it is.
    """
    if not storage.exists(uri):
        return None
    content = storage.read_bytes(uri)
    try:
        arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
        # What is no array comes as bytes, unread and unchecked.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
    except UNREADABLE as error:
        log(f"{uri} is damaged ({reason_of(error)}); its shard is {remedy}")
        return None
    return arrays if str(arrays.pop(DIGEST, "")) == sha256 else None
