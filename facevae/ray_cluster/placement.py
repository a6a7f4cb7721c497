"""How work fits on a cluster: what workers and actors reserve, and what is left for reading.

Workers that take every CPU starve the tasks that read for them, and the run hangs without an
error; so it is worked out, and refused with a remedy, before anything starts.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from facevae.config import READ_CPUS, ScalingConfig
from facevae.errors import TooSmallError
from facevae.ray_cluster.nodes import Node, in_pool, pool_labels

MAX_READERS = 8
"""most readers of one worker: ten times what a GPU trains, if each decodes 3,000 images/s"""
ENOUGH_CPUS = 1 - READ_CPUS
"""CPUs below which more workers of a range gain nothing: one core less a reader"""


class WorkerPlan(NamedTuple):
    """What each worker reserves, its threads, the readers that feed it, and where they run."""

    fewest: int
    workers: int
    """the most, where their number may change"""
    use_gpu: bool
    worker_labels: dict[str, str]
    reader_labels: dict[str, str]
    cpus: float = 1.0
    threads: int = 1
    readers: int = 0
    is_waiting: bool = False
    """whether the autoscaler must add nodes before training can start"""

    def resources(self) -> dict[str, float]:
        """The bundle of one worker, as Ray names it."""
        return {"CPU": self.cpus, "GPU": 1.0} if self.use_gpu else {"CPU": self.cpus}


class ActorPlan(NamedTuple):
    """How many actors of a pass there are, what each reserves, and where they and readers run."""

    actors: int
    cpus: float
    use_gpu: bool
    labels: dict[str, str]
    reader_labels: dict[str, str]

    @property
    def device(self) -> str:
        """What an actor computes on."""
        return "cuda" if self.use_gpu else "cpu"

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for an actor."""
        return {"num_gpus": 1} if self.use_gpu else {"num_cpus": self.cpus}


def plan_actors(
    what: str,
    group: str,
    actors: int | None,
    gpu: Literal["auto", "yes", "no"],
    nodes: Sequence[Node],
) -> ActorPlan:
    """The actors of a pass over images on a cluster.

    GPU actors go to the `gpu` pool, and whatever decodes, which CPU actors do too, to the `data`
    pool, where these exist. A quarter of the CPUs stays free, since actors that claim them all
    starve whatever else runs. Nodes that are not here count where a number is asked for; where
    none is, the actors are as many as the nodes that are here hold, at least one.

    Args:
        what: what the actors are, for messages.
        group: the group of settings that has `actors` and `gpu`.
        actors: how many are asked for.
        gpu: whether they have a GPU each.
        nodes: of the cluster.

    Raises:
        TooSmallError: the cluster cannot hold them; says what to change.
    """
    gpu_nodes, data_nodes = in_pool(nodes, "gpu"), in_pool(nodes, "data")
    gpu_labels, data_labels = pool_labels(nodes, "gpu"), pool_labels(nodes, "data")
    gpus, cpus = sum(int(node.gpus) for node in gpu_nodes), sum(node.cpus for node in data_nodes)
    if gpu == "yes" or (gpu == "auto" and gpus > 0):
        count = actors or max(1, sum(int(n.gpus) for n in gpu_nodes if n.is_here))
        if gpus < count:
            raise TooSmallError(
                f"{count} {what} actors need a GPU each and the cluster has {gpus}: lower "
                f"{group}.actors, or say --{group}.gpu no"
            )
        if not any(node.cpus >= 1 for node in data_nodes):
            raise TooSmallError("no node has a CPU to read and decode with: add one")
        return ActorPlan(count, 0.0, True, gpu_labels, data_labels)
    cpus_here = sum(node.cpus for node in data_nodes if node.is_here)
    count = actors or max(1, int(cpus_here))
    share = min(1.0, 0.75 * (cpus if actors else cpus_here or cpus) / count)
    if share < 0.01:  # Ray counts CPUs in ten-thousandths
        raise TooSmallError(
            f"{count} {what} actors on {cpus:g} CPUs are too many: lower {group}.actors"
        )
    return ActorPlan(count, share, False, data_labels, data_labels)


def workers_on(plan: WorkerPlan, node: Node) -> int:
    """The most workers of a plan that a node may get."""
    if not allows(node, plan.worker_labels):
        return 0
    by_cpu = int(node.cpus / plan.cpus + 1e-9)
    return min(plan.workers, by_cpu, int(node.gpus) if plan.use_gpu else by_cpu)


def allows(node: Node, labels: dict[str, str]) -> bool:
    """Whether what asks for these labels may run on a node."""
    return not labels or node.pool in labels.values()


def plan_workers(scaling: ScalingConfig, nodes: Sequence[Node]) -> WorkerPlan:
    """What the workers of a configuration reserve on a cluster.

    GPU workers go to the `gpu` pool, readers to the `data` pool, where these exist; CPU workers run
    anywhere, and with a range of them their readers do too.

    A fixed number of workers shares the CPUs of all nodes. With a range, Ray starts as many workers
    as the living nodes could hold at a time, by their total CPUs and GPUs alone: it looks neither
    at readers nor at labels. So each node that workers and readers share is planned by itself:
    however full of workers it is, a reader for each of them fits beside.

    Raises:
        TooSmallError: the cluster cannot hold the (fewest) workers and their reads; says what to
            change.
    """
    # Ray would count GPUs outside the pool for a range, and wait for more workers than the pool
    # holds: there the GPU alone says where workers run.
    has_others = any(node.gpus >= 1 and node.pool != "gpu" for node in nodes)
    gpu_labels = {} if scaling.is_elastic and has_others else pool_labels(nodes, "gpu")
    gpus = sum(int(node.gpus) for node in nodes if allows(node, gpu_labels))
    old = next((node.gpu_type for node in nodes if node.has_unsupported_gpu), None)
    use_gpu = scaling.gpu == "yes" or (
        scaling.gpu == "auto" and gpus >= scaling.fewest and old is None
    )
    if use_gpu and old is not None:
        raise TooSmallError(
            f"PyTorch has no kernels for a {old}, only for compute capability 7.5 and above (T4, "
            "L4, A10G and newer): say --scaling.gpu no, or take other nodes"
        )
    if use_gpu and gpus < scaling.fewest:
        raise TooSmallError(
            f"scaling.workers {scaling.fewest} need a GPU each and the cluster has {gpus}: lower "
            "scaling.workers, add GPU nodes, or say --scaling.gpu no"
        )
    plan = WorkerPlan(
        fewest=scaling.fewest,
        workers=scaling.most,
        use_gpu=use_gpu,
        worker_labels=gpu_labels if use_gpu else {},
        reader_labels=pool_labels(nodes, "data") if use_gpu or not scaling.is_elastic else {},
        cpus=scaling.cpus_per_worker or 1.0,
    )
    choices = [plan.cpus] if scaling.cpus_per_worker else _choices(plan, nodes)
    found = next(filter(None, (_fit(plan._replace(cpus=cpus), nodes) for cpus in choices)), None)
    if found is None:
        total = sum(node.cpus for node in nodes)
        raise TooSmallError(
            f"{plan.fewest} workers of {plan.cpus:g} CPUs and {READ_CPUS * plan.fewest:g} CPUs "
            f"for reading do not fit on {len(nodes)} node(s) with {total:g} CPUs and {gpus} GPUs: "
            "lower scaling.workers or scaling.cpus_per_worker, or add nodes"
        )
    return found


def _choices(plan: WorkerPlan, nodes: Sequence[Node]) -> list[float]:
    """The CPUs that a worker may reserve where none are given, the best first.

    As many as fit; on GPU at most one, beside the GPU. A range on CPU prefers what the most workers
    could have each, but at least 0.75 CPUs (or what the fewest could have, if that is less), so
    that a growing run gains from every worker it adds; then less, then more, which leaves room for
    readers where else none were left.

    All are multiples of `READ_CPUS`: what workers leave on a node then holds whole readers.
    """
    largest = max((_slots(node) for node in nodes if allows(node, plan.worker_labels)), default=0)
    if plan.use_gpu:
        largest = min(largest, int(1 / READ_CPUS))
    choices = [slots * READ_CPUS for slots in range(largest, 0, -1)]
    if plan.use_gpu or plan.fewest == plan.workers:
        return choices
    for_fewest, for_most = (
        next((c for c in choices if _fit(plan._replace(fewest=n, workers=n, cpus=c), nodes)), 0.0)
        for n in (plan.fewest, plan.workers)
    )
    least = min(for_fewest or READ_CPUS, ENOUGH_CPUS)
    wanted = max(for_most, least)
    enough = [cpus for cpus in choices if cpus >= least]
    return sorted(enough, key=lambda cpus: (cpus > wanted, abs(cpus - wanted)))


def _fit(plan: WorkerPlan, nodes: Sequence[Node]) -> WorkerPlan | None:
    """A plan with its threads and readers; none if its workers, or readers beside them, do not fit.

    Wherever Ray places the workers: it may fill one node before it takes the next.
    """
    counts = [(node, workers_on(plan, node)) for node in nodes]
    used = [(node, count) for node, count in counts if count]
    shared = [(node, count) for node, count in used if allows(node, plan.reader_labels)]
    taken = math.ceil(plan.cpus / READ_CPUS - 1e-9)  # the slots of readers that a worker takes
    room = sum(_slots(node) for node in nodes if allows(node, plan.reader_labels))
    room -= taken * min(plan.workers, sum(count for _, count in shared))
    total = sum(count for _, count in used)
    if all(allows(n, plan.reader_labels) for n in nodes if allows(n, plan.worker_labels)):
        workers, fed = plan.workers, min(plan.workers, total)
    else:  # no more than the nodes for reading can feed, whatever nodes for workers may be added
        workers = fed = min(plan.workers, room)
    if min(fed, total) < plan.fewest:
        return None
    readers = room // fed
    if plan.fewest < plan.workers:
        readers = min([readers, *(_slots(node) // count - taken for node, count in shared)])
    if readers < 1:
        return None
    return plan._replace(
        workers=workers,
        threads=max(1, min(int(node.cpus // count) for node, count in used)),
        readers=min(readers, MAX_READERS),
        is_waiting=sum(count for node, count in used if node.is_here) < plan.fewest,
    )


def _slots(node: Node) -> int:
    """How many readers would fit on an empty node."""
    return int(node.cpus / READ_CPUS + 1e-9)
