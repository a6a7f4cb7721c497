"""Who is on which image, from a table of identities.

Legend: n images.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from facevae.attributes.folds import UNKNOWN
from facevae.attributes.vectors import LatentBatch
from facevae.data.sources.matching import by_file
from facevae.data.sources.tables import read_identities
from facevae.errors import UserError
from facevae.runs import storage


def read_people(path: str, image_ids: Sequence[str]) -> dict[str, int]:
    """The number of the person on each image that the table has a row of.

    Images are named there as in a table of labels: by path or name, with any extension.

    Raises:
        UserError: the file is missing or not such a table, or it names none of the images.
    """
    return by_file(path, read_identities(path), image_ids)


def table_digest(path: str | None) -> str | None:
    """The SHA-256 of a table, at a path or URI; none: none is given.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    if path is None:
        return None
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; correct the path") from error


def with_people(batch: LatentBatch, people: Mapping[str, int]) -> LatentBatch:
    """Images with the number of the person on each, -1 where it is not known."""
    numbers = [people.get(name, UNKNOWN) for name in batch.image_id]
    return batch._replace(identities=np.array(numbers, np.int64))
