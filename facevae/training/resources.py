"""How training fits on a cluster: what each worker reserves, and what is left for reading.

Workers that take every CPU starve the tasks that read for them, and the run hangs without an
error; so it is worked out, and refused with a remedy, before anything starts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from facevae.config import ScalingConfig
from facevae.data.batches import READ_CPUS
from facevae.errors import UserError
from facevae.runtime import Node

MAX_READERS = 8
"""most readers of one worker: ten times what a GPU trains, if each decodes 3,000 images/s"""


class WorkerPlan(NamedTuple):
    """What each worker reserves, its threads, and the readers that feed it."""

    workers: int
    cpus: float
    use_gpu: bool
    threads: int
    readers: int

    def resources(self) -> dict[str, float]:
        """The bundle of one worker, as Ray names it."""
        return {"CPU": self.cpus, "GPU": 1.0} if self.use_gpu else {"CPU": self.cpus}


def plan_workers(scaling: ScalingConfig, nodes: Sequence[Node]) -> WorkerPlan:
    """What the workers of a configuration reserve on a cluster.

    Raises:
        UserError: the cluster cannot hold the workers and their reads; says what to change.
    """
    workers = scaling.workers
    gpus = sum(int(node.gpus) for node in nodes)
    use_gpu = scaling.gpu == "yes" or (scaling.gpu == "auto" and gpus >= workers)
    if use_gpu and gpus < workers:
        raise UserError(
            f"scaling.workers {workers} need a GPU each and the cluster has {gpus}: lower "
            "scaling.workers, add GPU nodes, or say --scaling.gpu no"
        )
    cpus = scaling.cpus_per_worker or _fair_share(workers, nodes, use_gpu)
    spare = _readers_beside(cpus, workers, nodes)
    if _capacity(cpus, nodes, use_gpu) < workers or spare < workers:
        total = sum(node.cpus for node in nodes)
        raise UserError(
            f"{workers} workers of {cpus:g} CPUs and {READ_CPUS * workers:g} CPUs for reading do "
            f"not fit on {len(nodes)} node(s) with {total:g} CPUs and {gpus} GPUs: lower "
            "scaling.workers or scaling.cpus_per_worker, or add nodes"
        )
    threads = _threads(cpus, workers, nodes, use_gpu)
    return WorkerPlan(workers, cpus, use_gpu, threads, min(spare // workers, MAX_READERS))


def _fair_share(workers: int, nodes: Sequence[Node], use_gpu: bool) -> float:
    """The most CPUs that each worker can have beside a reader; one is enough beside a GPU.

    A multiple of `READ_CPUS`: what the workers leave on a node then holds whole readers.
    """
    most = _places(nodes) // workers - 1
    shares = (places * READ_CPUS for places in range(most, 0, -1))
    share = next((each for each in shares if _capacity(each, nodes, use_gpu) >= workers), 1.0)
    return min(share, 1.0) if use_gpu else share


def _places(nodes: Sequence[Node]) -> int:
    """How many readers would fit on empty nodes."""
    return sum(int(node.cpus / READ_CPUS + 1e-9) for node in nodes)


def _readers_beside(cpus: float, workers: int, nodes: Sequence[Node]) -> int:
    """How many readers fit beside the workers, on whichever nodes Ray places those."""
    return _places(nodes) - workers * math.ceil(cpus / READ_CPUS - 1e-9)


def _threads(cpus: float, workers: int, nodes: Sequence[Node], use_gpu: bool) -> int:
    """A worker's threads: Ray packs workers, so a node may get as many as it holds."""
    held = [(node, min(workers, _capacity(cpus, [node], use_gpu))) for node in nodes]
    return max(1, min(int(node.cpus // count) for node, count in held if count))


def _capacity(cpus: float, nodes: Sequence[Node], use_gpu: bool) -> int:
    """How many workers fit on the nodes."""
    by_cpu = [int(node.cpus / cpus + 1e-9) for node in nodes]
    if not use_gpu:
        return sum(by_cpu)
    return sum(min(count, int(node.gpus)) for count, node in zip(by_cpu, nodes, strict=True))
