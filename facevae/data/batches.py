"""The batches that a rank trains on: the order of images, executed by Ray Data.

Legend: B images of one rank's batch, D stored image size.
"""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from typing import NamedTuple

import ray
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from facevae.config import READ_CPUS
from facevae.data.order import EpochPlan, RankRows, ReadWindow

PREFETCHED_BATCHES = 4
CLOSING_SECONDS = 20.0
"""how long the first batch is waited for at the end; readers start in a few seconds"""


class TrainingBatch(NamedTuple):
    """What one rank trains on in one step."""

    pixels: UInt8[Tensor, "B D D 3"]
    rows: Int64[Tensor, "B"]


def training_batches(
    folder: str,
    plan: EpochPlan,
    rank_rows: RankRows,
    device: torch.device,
    readers: int = 1,
    labels: dict[str, str] | None = None,
) -> "TrainingBatches":
    """This rank's batches, one per step, read and decoded ahead of time by Ray Data actors.

    The actors start at once, on nodes with the labels, where some are given.
    Actors, not tasks: between bursts of reading Ray ends idle task processes, and starting them
    anew costs seconds of CPU each time.
    """
    spans = [
        span
        for span in plan.spans(rank_rows.start, rank_rows.stop)
        if len(rank_rows.positions(span))
    ]
    context = ray.data.DataContext.get_current().copy()  # the process has other datasets too
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a damaged shard by its own words
    items = [span._asdict() for span in spans]
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ReadWindow,
            fn_constructor_args=(folder, plan, rank_rows),
            compute=ray.data.ActorPoolStrategy(size=min(readers, len(items))),
            batch_size=1,
            num_cpus=READ_CPUS,
            label_selector=labels or None,
        )
    batches = dataset.iter_torch_batches(
        batch_size=rank_rows.batch_size,
        prefetch_batches=PREFETCHED_BATCHES,
        device=device,
        pin_memory=device.type == "cuda",  # copies then run beside the steps
    )
    return TrainingBatches(iter(batches))


class TrainingBatches(Iterator[TrainingBatch]):
    """Batches, of which the first is fetched from now on."""

    def __init__(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """Takes what Ray Data iterates over."""
        self._batches = batches
        self._first: Future[dict[str, Tensor] | None] = Future()
        self._is_first = True
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        try:
            self._first.set_result(next(self._batches, None))
        except BaseException as error:  # noqa: BLE001  # raised where the batch is wanted
            self._first.set_exception(error)

    def __next__(self) -> TrainingBatch:
        """The next batch, when it is there."""
        batch = self._first.result() if self._is_first else next(self._batches, None)
        self._is_first = False
        if batch is None:
            raise StopIteration
        return TrainingBatch(batch["pixels"], batch["row"])

    def close(self) -> None:
        """End the readers, once the first batch is there: nothing may ask Ray after its end."""
        if not wait([self._first], CLOSING_SECONDS).not_done and isinstance(
            self._batches, Generator
        ):
            self._batches.close()
