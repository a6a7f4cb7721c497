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
    total, reads = sum(node.cpus for node in nodes), READ_CPUS * workers
    if _capacity(cpus, nodes, use_gpu) < workers or total - workers * cpus < reads - 1e-9:
        raise UserError(
            f"{workers} workers of {cpus:g} CPUs and {reads:g} CPUs for reading do not fit on "
            f"{len(nodes)} node(s) with {total:g} CPUs and {gpus} GPUs: lower scaling.workers or "
            "scaling.cpus_per_worker, or add nodes"
        )
    per_node = max(1, -(-workers // max(len(nodes), 1)))
    largest = max((node.cpus for node in nodes), default=1.0)
    readers = int((total - workers * cpus) / reads + 1e-9)
    threads = max(1, int(largest // per_node))
    return WorkerPlan(workers, cpus, use_gpu, threads, min(readers, MAX_READERS))


def _fair_share(workers: int, nodes: Sequence[Node], use_gpu: bool) -> float:
    """The most CPUs that each worker can have; one is enough beside a GPU."""
    reads = READ_CPUS * workers  # one reader for each
    total = sum(node.cpus for node in nodes)
    most = (total - reads) / workers
    shares = {node.cpus / k for node in nodes for k in range(1, workers + 1)} | {most}
    fitting = [
        share
        for share in shares
        if 0 < share <= most and _capacity(share, nodes, use_gpu) >= workers
    ]
    if not fitting:
        return 1.0
    share = math.floor(max(fitting) * 1e4) / 1e4  # Ray counts in ten-thousandths
    return min(share, 1.0) if use_gpu else share


def _capacity(cpus: float, nodes: Sequence[Node], use_gpu: bool) -> int:
    """How many workers fit on the nodes."""
    by_cpu = [int(node.cpus / cpus + 1e-9) for node in nodes]
    if not use_gpu:
        return sum(by_cpu)
    return sum(min(count, int(node.gpus)) for count, node in zip(by_cpu, nodes, strict=True))
