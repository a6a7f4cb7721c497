"""Which images are decoded, edited and learned from: always the same ones, spread evenly."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from facevae.config import HELD_OUT_SPLITS, EvaluationConfig
from facevae.data.shard_files import Manifest, Shard


class Rows(NamedTuple):
    """Rows of a shard that are decoded; half of all of them are the reference."""

    rows: Int64[np.ndarray, " m"]
    is_reference: Bool[np.ndarray, " m"]
    """whether sampled images, and the other half, are compared with it"""
    is_edited: Bool[np.ndarray, " m"]
    first: int
    """the number of the shard's first held-out image, which tells its noise from that of others"""


class Sample(NamedTuple):
    """What a model is measured on."""

    held_out: tuple[Shard, ...]
    training: tuple[Shard, ...]
    """whole shards that the judge learns from"""
    rows: dict[str, Rows]
    """by held-out shard"""

    @property
    def edited(self) -> tuple[Shard, ...]:
        """The shards that hold faces to edit."""
        return tuple(s for s in self.held_out if self.rows[s.name].is_edited.any())


def choose_sample(manifest: Manifest, config: EvaluationConfig, learns: bool) -> Sample:
    """The images of a data set that a model is measured on.

    Args:
        manifest: of the shards.
        config: how many.
        learns: whether a judge learns from training images.
    """
    held_out = manifest.of_split(*HELD_OUT_SPLITS)
    total = manifest.rows(*HELD_OUT_SPLITS)
    decoded = spread(total, config.decoded)
    is_reference = np.arange(len(decoded)) % 2 == 0
    is_edited = np.zeros(len(decoded), bool)
    is_edited[spread(len(decoded), config.edited)] = True
    rows, first = {}, 0
    for shard in held_out:
        inside = (decoded >= first) & (decoded < first + shard.rows)
        parts = decoded[inside] - first, is_reference[inside], is_edited[inside]
        rows[shard.name] = Rows(*parts, first)
        first += shard.rows
    training = manifest.of_split("train") if learns else ()
    return Sample(held_out, _whole_shards(training, config.judge_images), rows)


def spread(total: int, count: int) -> Int64[np.ndarray, " m"]:
    """Up to `count` different numbers below `total`, evenly spaced."""
    count = min(total, count)
    return ((np.arange(count) + 0.5) * total / max(count, 1)).astype(np.int64)


def _whole_shards(shards: tuple[Shard, ...], images: int) -> tuple[Shard, ...]:
    """As few evenly spaced shards as hold so many images, or all."""
    for count in range(1, len(shards) + 1):
        chosen = tuple(shards[int(i)] for i in spread(len(shards), count))
        if sum(shard.rows for shard in chosen) >= images:
            return chosen
    return shards
