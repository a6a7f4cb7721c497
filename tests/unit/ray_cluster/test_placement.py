"""Workers and their readers fit on the cluster, or are refused with a remedy."""

import numpy as np
import pytest

from facevae.config import READ_CPUS, ScalingConfig
from facevae.errors import UserError
from facevae.ray_cluster.nodes import POOL_LABEL, Node
from facevae.ray_cluster.placement import WorkerPlan, plan_workers

LAPTOP = [Node(2, 0)]
BOX = [Node(16, 8)]


def test_a_laptop_gives_each_worker_its_share():
    one, two = (plan_workers(ScalingConfig(workers=n), LAPTOP) for n in (1, 2))
    assert (one.cpus, one.threads, one.use_gpu) == (1.75, 2, False)
    assert (two.cpus, two.threads, two.use_gpu) == (0.75, 1, False)
    assert one.readers >= 1
    assert two.readers >= 1


def test_gpus_are_taken_where_there_are_enough():
    assert plan_workers(ScalingConfig(workers=8), BOX).resources() == {"CPU": 1, "GPU": 1}
    assert not plan_workers(ScalingConfig(workers=9, cpus_per_worker=1), BOX).use_gpu


@pytest.mark.parametrize("kind", ["V100", "Tesla-P100", "TESLA-K80", "P40"])
def test_gpus_that_torch_has_no_kernels_for_are_left_alone_and_refused_if_wanted(kind):
    nodes = [Node(8, 2, gpu_type=kind), Node(8, 1, gpu_type="T4")]
    assert not plan_workers(ScalingConfig(workers=1), nodes).use_gpu
    assert not plan_workers(ScalingConfig(workers=1, gpu="no"), nodes).use_gpu
    with pytest.raises(UserError, match=f"no kernels for a {kind}.*--scaling.gpu no"):
        plan_workers(ScalingConfig(workers=1, gpu="yes"), nodes)
    assert plan_workers(ScalingConfig(workers=1), nodes[1:]).use_gpu


@pytest.mark.parametrize(
    ("workers", "nodes", "threads"),
    [
        (2, [Node(0, 0), Node(8, 1), Node(8, 1)], 8),  # one a node; the head takes none
        (2, [Node(0, 0), Node(8, 0)], 4),  # both on the one node with CPUs
        (8, [Node(16, 8), Node(16, 8)], 2),  # Ray packs all eight on one
        (3, [Node(16, 0), Node(2, 0)], 5),  # the small one is left to the readers
    ],
)
def test_workers_on_one_node_share_its_cpus(workers, nodes, threads):
    plan = plan_workers(ScalingConfig(workers=workers), nodes)
    assert (plan.use_gpu, plan.threads) == (any(node.gpus for node in nodes), threads)


@pytest.mark.parametrize(
    ("scaling", "nodes"),
    [
        (ScalingConfig(workers=2, cpus_per_worker=1), LAPTOP),  # nothing left to read with
        (ScalingConfig(workers=5), LAPTOP),
        (ScalingConfig(workers=1, cpus_per_worker=3), LAPTOP),
        (ScalingConfig(workers=5, cpus_per_worker=1.15), [Node(4, 0), Node(3, 0)]),  # 4 readers fit
        (ScalingConfig(workers=1), []),
        (ScalingConfig(workers=2, cpus_per_worker=6), [Node(8, 0), Node(4, 0)]),  # in no way packs
        (ScalingConfig(workers=1, gpu="yes"), LAPTOP),
        (ScalingConfig(workers=9, gpu="yes"), BOX),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(scaling, nodes):
    with pytest.raises(UserError, match=r"lower scaling\.workers"):
        plan_workers(scaling, nodes)


def packed(plan: WorkerPlan, nodes: list[Node]) -> list[int]:
    """How many workers each node gets, as many as it holds before the next gets one."""
    left, counts = plan.workers, []
    for node in nodes:
        fitting = int((node.cpus + 1e-9) // plan.cpus)
        counts.append(min(left, fitting, int(node.gpus) if plan.use_gpu else left))
        left -= counts[-1]
    assert left == 0
    return counts


@pytest.mark.parametrize("given", [False, True])
def test_whatever_is_planned_fits_and_leaves_the_readers_room(given):
    rng = np.random.default_rng(0)
    planned = 0
    for _ in range(400):
        nodes = [Node(float(rng.integers(0, 17)), float(rng.integers(0, 5))) for _ in range(4)]
        cpus = float(rng.uniform(0.1, 4)) if given else None
        scaling = ScalingConfig(workers=int(rng.integers(1, 9)), cpus_per_worker=cpus)
        try:
            plan = plan_workers(scaling, nodes)
        except UserError:
            continue
        planned += 1
        for order in (nodes, nodes[::-1]):
            counts = packed(plan, order)
            free = [n.cpus - k * plan.cpus for n, k in zip(order, counts, strict=True)]
            whole_readers = sum(int((cpus + 1e-9) // READ_CPUS) for cpus in free)
            assert whole_readers >= plan.workers * plan.readers >= plan.workers
            assert all(
                k * plan.threads <= max(n.cpus, k) for n, k in zip(order, counts, strict=True)
            )
    assert planned > 250


def test_a_range_reserves_what_the_most_could_have_but_never_too_little():
    plan = plan_workers(ScalingConfig(workers=(1, 2)), LAPTOP)
    assert (plan.fewest, plan.workers, plan.cpus, plan.readers) == (1, 2, 0.75, 1)
    plan = plan_workers(ScalingConfig(workers=(2, 8)), [Node(8, 0), Node(8, 0)])
    assert (plan.cpus, plan.threads, plan.readers) == (1.75, 2, 1)
    plan = plan_workers(ScalingConfig(workers=(1, 64)), [Node(16, 0)])
    assert plan.cpus == 2.75  # Ray starts five; with less each, no room is left for readers
    assert plan_workers(ScalingConfig(workers=(2, 8)), BOX).resources() == {"CPU": 1, "GPU": 1}
    full = plan_workers(ScalingConfig(workers=(2, 8)), [Node(8, 8)])
    assert (full.cpus, full.readers) == (0.75, 1)


@pytest.mark.parametrize(
    ("scaling", "nodes"),
    [
        (ScalingConfig(workers=(3, 8), cpus_per_worker=1), LAPTOP),
        (ScalingConfig(workers=(1, 2), cpus_per_worker=1), LAPTOP),  # two leave no reader
        (ScalingConfig(workers=(9, 12), gpu="yes"), BOX),
    ],
)
def test_a_range_whose_fewest_or_fullest_does_not_fit_is_refused(scaling, nodes):
    with pytest.raises(UserError, match=r"lower scaling\.workers"):
        plan_workers(scaling, nodes)


def ray_starts(plan: WorkerPlan, nodes: list[Node]) -> list[int]:
    """The workers on each node that Ray's elastic policy starts, by its own count."""
    left, counts = plan.workers, []
    for node in nodes:
        fitting = min(node.cpus // plan.cpus, node.gpus if plan.use_gpu else np.inf)
        counts.append(int(min(left, fitting)))
        left -= counts[-1]
    return counts


def test_a_range_leaves_readers_room_at_every_size_of_the_cluster():
    rng = np.random.default_rng(1)
    planned = 0
    for _ in range(300):
        nodes = [Node(float(rng.integers(0, 17)), float(rng.integers(0, 5))) for _ in range(4)]
        fewest = int(rng.integers(1, 5))
        scaling = ScalingConfig(workers=(fewest, fewest + int(rng.integers(1, 8))))
        try:
            plan = plan_workers(scaling, nodes)
        except UserError:
            continue
        planned += 1
        for size in range(1, 5):
            living = [nodes[i] for i in rng.permutation(4)[:size]]
            counts = ray_starts(plan, living)
            if sum(counts) < fewest:
                continue  # Ray waits
            free = [n.cpus - k * plan.cpus for n, k in zip(living, counts, strict=True)]
            assert sum(int(cpus // READ_CPUS) for cpus in free) >= sum(counts) * plan.readers
            assert plan.readers >= 1
    assert planned > 200


GPU_NODE, DATA_NODE = Node(8, 4, pool="gpu"), Node(16, 0, pool="data")
HEAD = Node(4, 0)


def test_workers_and_readers_go_to_their_pools_and_count_the_cpus_there_alone():
    plan = plan_workers(ScalingConfig(workers=4), [HEAD, GPU_NODE, DATA_NODE])
    assert plan.worker_labels == {POOL_LABEL: "gpu"}
    assert plan.reader_labels == {POOL_LABEL: "data"}
    assert plan.readers == 8  # 64 places on the data node for 4 workers, capped
    plan = plan_workers(ScalingConfig(workers=4), [HEAD, GPU_NODE, Node(1, 0, pool="data")])
    assert plan.readers == 1
    with pytest.raises(UserError, match="for reading do not fit"):
        plan_workers(
            ScalingConfig(workers=8), [HEAD, Node(64, 8, pool="gpu"), Node(1, 0, pool="data")]
        )


def test_without_a_pool_its_work_runs_anywhere():
    plan = plan_workers(ScalingConfig(workers=4), [HEAD, Node(8, 4)])
    assert (plan.worker_labels, plan.reader_labels) == ({}, {})
    plan = plan_workers(ScalingConfig(workers=4), [HEAD, GPU_NODE])
    assert (plan.worker_labels, plan.reader_labels) == ({POOL_LABEL: "gpu"}, {})


def test_gpus_outside_the_pool_do_not_count_for_a_fixed_number():
    with pytest.raises(UserError, match="the cluster has 4"):
        plan_workers(ScalingConfig(workers=5, gpu="yes"), [Node(16, 8), GPU_NODE])


def test_a_range_beside_stray_gpus_asks_for_the_gpu_alone():
    """Ray counts every GPU for a range, so it may start workers on every GPU."""
    plan = plan_workers(ScalingConfig(workers=(2, 12)), [Node(16, 8), GPU_NODE, DATA_NODE])
    assert (plan.worker_labels, plan.reader_labels) == ({}, {POOL_LABEL: "data"})


def test_a_range_grows_no_further_than_the_data_pool_can_read():
    nodes = [Node(64, 8, pool="gpu"), Node(1, 0, pool="data")]
    assert plan_workers(ScalingConfig(workers=(2, 8)), nodes).workers == 4


def test_cpu_workers_leave_the_data_pool_its_readers():
    plan = plan_workers(ScalingConfig(workers=2), [Node(8, 0), Node(2, 0, pool="data")])
    assert (plan.worker_labels, plan.reader_labels) == ({}, {POOL_LABEL: "data"})
    assert plan.cpus > 1.5  # two workers of 1.5 CPUs or fewer might fill the data node
    anywhere = plan_workers(ScalingConfig(workers=(1, 2)), [Node(8, 0), DATA_NODE])
    assert anywhere.reader_labels == {}


def test_nodes_to_come_count_and_are_waited_for():
    pending = [GPU_NODE._replace(is_here=False)] * 2
    plan = plan_workers(ScalingConfig(workers=8), [HEAD, *pending, DATA_NODE])
    assert (plan.use_gpu, plan.is_waiting) == (True, True)
    here = plan_workers(ScalingConfig(workers=(4, 8)), [HEAD, GPU_NODE, *pending, DATA_NODE])
    assert not here.is_waiting
