"""The order of training images as a value, and the images of a part of it.

The plan is an endless row of images: epoch after epoch, each a permutation that depends on the
seed and the epoch alone. Global batch k is images kG to (k+1)G of it, on any number of workers;
rank r of R takes rows rG/R to (r+1)G/R of each batch. A resumed run needs only its cursor, the
number of images trained so far, and decodes nothing before it.

Without torch, which a reader would wait for at its start.
Legend: G global batch size, N training images, B images of one rank's batch, D stored image size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from facevae.config import Split
from facevae.data import shard_files
from facevae.data.images import decode_jpegs
from facevae.data.rank import rank_size, rank_slice
from facevae.data.shard_files import Manifest

# A window is what one task reads and shuffles: its 2,048 images are of 8 row groups.
GROUPS_PER_WINDOW = 8
# numpy takes [seed, epoch] and [seed, epoch, 0] for the same seed; tags keep the streams apart.
GROUP_STREAM, ROW_STREAM = 1, 2


class RowGroup(NamedTuple):
    """A row group of a shard; `first_row` counts over the whole split."""

    shard: str
    number: int
    first_row: int
    rows: int


class Window(NamedTuple):
    """One task's part of the plan: which row groups, and their rows in shuffled order."""

    groups: tuple[RowGroup, ...]
    order: Int64[np.ndarray, "rows"]


class WindowSpan(NamedTuple):
    """A window by number, and where in the endless row of images it starts."""

    epoch: int
    number: int
    start: int
    rows: int


@dataclass(frozen=True)
class EpochPlan:
    """The order of a split's images for every epoch: a pure function of (seed, epoch)."""

    groups: tuple[RowGroup, ...]
    seed: int

    @property
    def rows(self) -> int:
        """N, the images of one epoch."""
        return sum(group.rows for group in self.groups)

    def windows(self, epoch: int) -> tuple[tuple[RowGroup, ...], ...]:
        """The row groups of an epoch, shuffled and cut into windows."""
        order = np.random.default_rng([GROUP_STREAM, self.seed, epoch]).permutation(
            len(self.groups)
        )
        return tuple(
            tuple(self.groups[i] for i in order[start : start + GROUPS_PER_WINDOW])
            for start in range(0, len(order), GROUPS_PER_WINDOW)
        )

    def window(self, epoch: int, number: int) -> Window:
        """One window, with the permutation of its rows."""
        groups = _windows(self, epoch)[number]
        rng = np.random.default_rng([ROW_STREAM, self.seed, epoch, number])
        return Window(groups, rng.permutation(sum(group.rows for group in groups)))

    def spans(self, start: int, stop: int) -> Iterator[WindowSpan]:
        """The windows that hold images start to stop of the endless row."""
        epoch = start // self.rows
        position = epoch * self.rows
        while position < stop:
            for number, groups in enumerate(_windows(self, epoch)):
                rows = sum(group.rows for group in groups)
                if position + rows > start and position < stop:
                    yield WindowSpan(epoch, number, position, rows)
                position += rows
            epoch += 1


@lru_cache(maxsize=4)
def _windows(plan: EpochPlan, epoch: int) -> tuple[tuple[RowGroup, ...], ...]:
    return plan.windows(epoch)


def epoch_plan(manifest: Manifest, split: Split, seed: int) -> EpochPlan:
    """The plan over a split of a data set."""
    groups = []
    first = 0
    for shard in manifest.of_split(split):
        for number, start in enumerate(range(0, shard.rows, shard_files.ROWS_PER_GROUP)):
            rows = min(shard_files.ROWS_PER_GROUP, shard.rows - start)
            groups.append(RowGroup(shard.name, number, first, rows))
            first += rows
    return EpochPlan(tuple(groups), seed)


class RankRows(NamedTuple):
    """One rank's part of the plan: a slice of each global batch from `start` up to `stop`."""

    rank: int
    world_size: int
    global_batch_size: int
    start: int
    stop: int

    @property
    def batch_size(self) -> int:
        """B, this rank's images of each global batch."""
        return rank_size(self.global_batch_size, self.rank, self.world_size)

    def positions(self, span: WindowSpan) -> Int64[np.ndarray, "rows"]:
        """The positions in a window of the images that are this rank's, in order."""
        in_plan = np.arange(span.start, span.start + span.rows)
        rows = rank_slice(self.global_batch_size, self.rank, self.world_size)
        in_batch = in_plan % self.global_batch_size
        mine = (in_batch >= rows.start) & (in_batch < rows.stop)
        return np.flatnonzero(mine & (in_plan >= self.start) & (in_plan < self.stop))


class ReadWindow:
    """An actor: a window by number -> this rank's images of it, decoded, in plan order."""

    def __init__(self, folder: str, plan: EpochPlan, rank_rows: RankRows) -> None:
        self._folder, self._plan, self._rank_rows = folder, plan, rank_rows

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`pixels` uint8 [rows,D,D,3] and `row` int64 [rows], its position in the split."""
        span = WindowSpan(*(int(batch[name][0]) for name in WindowSpan._fields))
        window = self._plan.window(span.epoch, span.number)
        chosen = window.order[self._rank_rows.positions(span)]
        images: list[bytes] = []
        for group in window.groups:
            images += shard_files.read_images(self._folder, group.shard, [group.number])
        rows = [np.arange(group.first_row, group.first_row + group.rows) for group in window.groups]
        return {
            "pixels": decode_jpegs([images[i] for i in chosen]),
            "row": np.concatenate(rows)[chosen],
        }


def spread_images(
    folder: str, manifest: Manifest, split: Split, count: int
) -> UInt8[np.ndarray, "count D D 3"]:
    """Up to `count` decoded images of a split, always the same ones, spread evenly over it."""
    total = manifest.rows(split)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    images: list[bytes] = []
    first = 0
    for shard in manifest.of_split(split):
        wanted = chosen[(chosen >= first) & (chosen < first + shard.rows)] - first
        if len(wanted):
            stored = shard_files.read_images(folder, shard.name)
            images += [stored[i] for i in wanted]
        first += shard.rows
    return decode_jpegs(images)
