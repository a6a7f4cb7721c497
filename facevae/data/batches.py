"""The batches that a rank trains on: the order of images, executed by Ray Data.

Legend: B images of one rank's batch, D stored image size.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import chain
from typing import NamedTuple

import ray
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from facevae.config import READ_CPUS
from facevae.data.order import EpochPlan, RankRows, ReadWindow

PREFETCHED_BATCHES = 4


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
) -> Iterator[TrainingBatch]:
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
    return _begun(iter(batches))


def _begun(batches: Iterator[dict[str, Tensor]]) -> Iterator[TrainingBatch]:
    """The batches, of which the first is fetched from now on."""
    first: Future[dict[str, Tensor] | None] = Future()

    def fetch() -> None:
        try:
            first.set_result(next(batches, None))
        except BaseException as error:  # noqa: BLE001  # raised where the batch is wanted
            first.set_exception(error)

    threading.Thread(target=fetch, daemon=True).start()

    def wait() -> Iterator[TrainingBatch]:
        for batch in chain([first.result()], batches):
            if batch is not None:
                yield TrainingBatch(batch["pixels"], batch["row"])

    return wait()
