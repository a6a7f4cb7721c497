"""Workers and their readers fit on the cluster, or are refused with a remedy."""

import numpy as np
import pytest

from facevae.config import ScalingConfig
from facevae.data.batches import READ_CPUS
from facevae.errors import UserError
from facevae.runtime import Node
from facevae.training.resources import WorkerPlan, plan_workers

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
