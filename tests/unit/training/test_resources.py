"""Workers and their readers fit on the cluster, or are refused with a remedy."""

import numpy as np
import pytest

from facevae.config import ScalingConfig
from facevae.data.batches import READ_CPUS
from facevae.errors import UserError
from facevae.runtime import Node
from facevae.training.resources import plan_workers

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
    head_without_cpus = [Node(0, 0), Node(8, 1), Node(8, 1)]
    assert plan_workers(ScalingConfig(workers=2), head_without_cpus).use_gpu


@pytest.mark.parametrize(
    ("scaling", "nodes"),
    [
        (ScalingConfig(workers=2, cpus_per_worker=1), LAPTOP),  # nothing left to read with
        (ScalingConfig(workers=1, cpus_per_worker=3), LAPTOP),
        (ScalingConfig(workers=2, cpus_per_worker=6), [Node(8, 0), Node(4, 0)]),  # in no way packs
        (ScalingConfig(workers=1, gpu="yes"), LAPTOP),
        (ScalingConfig(workers=9, gpu="yes"), BOX),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(scaling, nodes):
    with pytest.raises(UserError, match=r"lower scaling\.workers"):
        plan_workers(scaling, nodes)


def test_whatever_is_planned_fits_and_leaves_the_readers_room():
    rng = np.random.default_rng(0)
    planned = 0
    for _ in range(500):
        nodes = [Node(float(rng.integers(0, 17)), float(rng.integers(0, 5))) for _ in range(4)]
        scaling = ScalingConfig(workers=int(rng.integers(1, 9)))
        try:
            plan = plan_workers(scaling, nodes)
        except UserError:
            continue
        planned += 1
        places = sum(
            int(min((n.cpus + 1e-9) // plan.cpus, n.gpus if plan.use_gpu else np.inf))
            for n in nodes
        )
        assert places >= plan.workers
        total = sum(node.cpus for node in nodes)
        taken = plan.workers * (plan.cpus + plan.readers * READ_CPUS)
        assert taken <= total + 1e-6
    assert planned > 300
