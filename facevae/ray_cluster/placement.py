"""How training fits on a cluster: what each worker reserves, and what is left for reading.

Workers that take every CPU starve the tasks that read for them, and the run hangs without an
error; so it is worked out, and refused with a remedy, before anything starts.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from facevae.config import READ_CPUS, ScalingConfig
from facevae.errors import TooSmallError
from facevae.ray_cluster.nodes import Node, pool_labels

MAX_READERS = 8
"""most readers of one worker: ten times what a GPU trains, if each decodes 3,000 images/s"""
ENOUGH_CPUS = 1 - READ_CPUS
"""CPUs below which more workers of a range gain nothing: one core less a reader"""


class WorkerPlan(NamedTuple):
    """What each worker reserves, its threads, the readers that feed it, and where they run."""

    fewest: int
    workers: int
    """the most, where their number may change"""
    cpus: float
    use_gpu: bool
    threads: int
    readers: int
    worker_labels: dict[str, str]
    reader_labels: dict[str, str]
    is_waiting: bool
    """whether the autoscaler must add nodes before training can start"""

    def resources(self) -> dict[str, float]:
        """The bundle of one worker, as Ray names it."""
        return {"CPU": self.cpus, "GPU": 1.0} if self.use_gpu else {"CPU": self.cpus}


def workers_on(plan: WorkerPlan, node: Node) -> int:
    """The most workers of a plan that a node may get."""
    if not _allows(node, plan.worker_labels):
        return 0
    return min(plan.workers, _capacity(plan.cpus, node, plan.use_gpu))


class _Site(NamedTuple):
    """A node, and which of the two may run there."""

    node: Node
    works: bool
    reads: bool


def plan_workers(scaling: ScalingConfig, nodes: Sequence[Node]) -> WorkerPlan:
    """What the workers of a configuration reserve on a cluster.

    GPU workers go to the `gpu` pool, readers to the `data` pool, where these exist; CPU workers run
    anywhere, and with a range of them their readers do too.

    A fixed number of workers shares the CPUs of all nodes. With a range, Ray starts as many workers
    as the living nodes could hold at a time, by their total CPUs and GPUs alone: it looks neither
    at readers nor at labels. So each node that workers and readers share is planned by itself:
    however full of workers it is, a reader for each of them fits beside. A worker of a range then
    reserves, unless `cpus_per_worker` says:

    - on CPU, what the most workers could have each, but at least 0.75 CPUs (or what the fewest
      could have, if that is less), so that a growing run gains from every worker it adds, and more
      where else no room for readers were left;
    - on GPU, one CPU beside the GPU, or less where a node's CPUs are too few to read for its GPUs.

    Raises:
        TooSmallError: the cluster cannot hold the (fewest) workers and their reads; says what to
            change.
    """
    gpu_labels = _gpu_labels(scaling, nodes)
    gpus = sum(int(node.gpus) for node in nodes if _allows(node, gpu_labels))
    use_gpu = scaling.gpu == "yes" or (scaling.gpu == "auto" and gpus >= scaling.fewest)
    if use_gpu and gpus < scaling.fewest:
        raise TooSmallError(
            f"scaling.workers {scaling.fewest} need a GPU each and the cluster has {gpus}: lower "
            "scaling.workers, add GPU nodes, or say --scaling.gpu no"
        )
    worker_labels = gpu_labels if use_gpu else {}
    anywhere = scaling.is_elastic and not use_gpu
    reader_labels = {} if anywhere else pool_labels(nodes, "data")
    sites = [_Site(n, _allows(n, worker_labels), _allows(n, reader_labels)) for n in nodes]
    fit = _Fit(scaling, sites, use_gpu)
    cpus = scaling.cpus_per_worker or fit.share()
    if not fit.holds(cpus):
        total = sum(node.cpus for node in nodes)
        raise TooSmallError(
            f"{scaling.fewest} workers of {cpus:g} CPUs and {READ_CPUS * scaling.fewest:g} CPUs "
            f"for reading do not fit on {len(nodes)} node(s) with {total:g} CPUs and {gpus} GPUs: "
            "lower scaling.workers or scaling.cpus_per_worker, or add nodes"
        )
    here = _Fit(scaling, [site for site in sites if site.node.is_here], use_gpu)
    most = fit.most(cpus)
    return WorkerPlan(
        fewest=scaling.fewest,
        workers=most,
        cpus=cpus,
        use_gpu=use_gpu,
        threads=fit.threads(cpus),
        readers=min(fit.readers(cpus, most), MAX_READERS),
        worker_labels=worker_labels,
        reader_labels=reader_labels,
        is_waiting=here.capacity(cpus) < scaling.fewest,
    )


def _gpu_labels(scaling: ScalingConfig, nodes: Sequence[Node]) -> dict[str, str]:
    """The labels that GPU workers ask for.

    Ray's count for a range does not look at labels: with GPUs outside the pool it would start more
    workers than the pool holds, and wait for them; the GPU alone then says where workers run.
    """
    orphans = any(node.gpus >= 1 and node.pool != "gpu" for node in nodes)
    return {} if scaling.is_elastic and orphans else pool_labels(nodes, "gpu")


def _allows(node: Node, labels: dict[str, str]) -> bool:
    return not labels or node.pool in labels.values()


class _Fit:
    """Whether, and how, workers of some CPUs each fit on sites."""

    def __init__(self, scaling: ScalingConfig, sites: Sequence[_Site], use_gpu: bool) -> None:
        self._scaling, self._sites, self._use_gpu = scaling, sites, use_gpu

    def share(self) -> float:
        """The CPUs of each worker where none are given; see `plan_workers`.

        A multiple of `READ_CPUS`: what the workers leave on a node then holds whole readers.
        """
        largest = max((_places(site.node) for site in self._sites if site.works), default=0)
        if self._use_gpu:
            largest = min(largest, int(1 / READ_CPUS))
        shares = [places * READ_CPUS for places in range(largest, 0, -1)]
        if self._scaling.is_elastic and not self._use_gpu:
            shares = self._of_a_range(shares)
        return next((share for share in shares if self.holds(share)), 1.0)

    def _of_a_range(self, shares: list[float]) -> list[float]:
        """The shares by preference: what the most workers could have each, then less, then more."""
        for_fewest, for_most = (
            next((s for s in shares if self._holds_fixed(s, workers)), READ_CPUS)
            for workers in (self._scaling.fewest, self._scaling.most)
        )
        least = min(for_fewest, ENOUGH_CPUS)
        wanted = max(for_most, least)
        lower = [s for s in shares if least <= s <= wanted]
        return lower + [s for s in reversed(shares) if s > wanted]

    def holds(self, cpus: float) -> bool:
        """Whether workers of so many CPUs fit, and enough readers beside them."""
        if not self._scaling.is_elastic:
            return self._holds_fixed(cpus, self._scaling.most)
        each = (
            self._workers_on(site, cpus) * (_taken(cpus) + 1) <= _places(site.node)
            for site in self._sites
            if site.works and site.reads
        )
        fewest = self._scaling.fewest
        return self.capacity(cpus) >= fewest and self.most(cpus) >= fewest and all(each)

    def _holds_fixed(self, cpus: float, workers: int) -> bool:
        return self.capacity(cpus) >= workers and self._places_beside(cpus, workers) >= workers

    def capacity(self, cpus: float) -> int:
        """How many workers fit on the sites, if nothing reads."""
        return sum(_capacity(cpus, site.node, self._use_gpu) for site in self._sites if site.works)

    def most(self, cpus: float) -> int:
        """How many workers there may be with a reader each."""
        most = self._scaling.most
        if all(site.reads for site in self._sites if site.works):
            return most
        return min(most, self._places_beside(cpus, most))

    def readers(self, cpus: float, most: int) -> int:
        """How many readers each of that many workers can have, whichever sites they run on."""
        if not self._scaling.is_elastic or not all(s.reads for s in self._sites if s.works):
            return self._places_beside(cpus, most) // most
        filled = ((self._workers_on(site, cpus), site.node) for site in self._sites if site.works)
        return min(_places(node) // count - _taken(cpus) for count, node in filled if count)

    def threads(self, cpus: float) -> int:
        """A worker's threads: Ray packs workers, so a node may get as many as it holds."""
        filled = ((self._workers_on(site, cpus), site.node) for site in self._sites if site.works)
        return max(1, min(int(node.cpus // count) for count, node in filled if count))

    def _workers_on(self, site: _Site, cpus: float) -> int:
        """The most workers that a site may get."""
        return min(self._scaling.most, _capacity(cpus, site.node, self._use_gpu))

    def _places_beside(self, cpus: float, workers: int) -> int:
        """How many readers fit beside the workers, on whichever sites Ray places those."""
        shared = [site.node for site in self._sites if site.works and site.reads]
        on_shared = min(workers, sum(_capacity(cpus, node, self._use_gpu) for node in shared))
        return _all_places(site.node for site in self._sites if site.reads) - on_shared * _taken(
            cpus
        )


def _taken(cpus: float) -> int:
    """How many readers a worker of so many CPUs takes the place of."""
    return math.ceil(cpus / READ_CPUS - 1e-9)


def _places(node: Node) -> int:
    """How many readers would fit on an empty node."""
    return int(node.cpus / READ_CPUS + 1e-9)


def _all_places(nodes: Iterable[Node]) -> int:
    return sum(_places(node) for node in nodes)


def _capacity(cpus: float, node: Node, use_gpu: bool) -> int:
    """How many workers fit on a node."""
    by_cpu = int(node.cpus / cpus + 1e-9)
    return min(by_cpu, int(node.gpus)) if use_gpu else by_cpu
