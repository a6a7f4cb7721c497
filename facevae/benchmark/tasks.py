"""Work that is measured without Ray's data flow: in a fresh process on a node of the cluster."""

from collections.abc import Callable
from typing import TypeVar

import ray

T = TypeVar("T")


def in_fresh_process(
    function: Callable[[T], float],
    given: T,
    cpus: float,
    gpus: float = 0.0,
    labels: dict[str, str] | None = None,
) -> Callable[[], float]:
    """The function of what is given, as a Ray task that takes these resources.

    Each call has a process of its own: no memory is left over, and allocator settings hold.
    """
    task = ray.remote(max_calls=1)(function).options(
        num_cpus=cpus, num_gpus=gpus, label_selector=labels or None
    )
    return lambda: float(ray.get(task.remote(given)))
