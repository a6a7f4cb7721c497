"""What Ray's autoscaler makes of the pools, by its own scheduler; the comments of the files say so.

A change of Ray that fails these tests makes a comment of cluster/aws.yaml, gcp.yaml, with_nodes.py
or kuberay/ray/cluster.yaml untrue: read them again.
"""

import os
import runpy
import subprocess
import sys
import time

import pytest
import yaml
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, InstanceReconcileConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint, ResourceRequestByCount
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent


@pytest.fixture(params=["aws", "gcp", "kuberay"])
def pools(request, cluster_folder):
    """The autoscaler's view of a file, as Ray itself derives it."""
    if request.param == "kuberay":
        from ray.autoscaler._private.kuberay.autoscaling_config import (
            _derive_autoscaling_config_from_ray_cr,
        )

        cluster = yaml.safe_load((cluster_folder / "kuberay/ray/cluster.yaml").read_text())
        cluster["metadata"]["namespace"] = "facevae"
        values = _derive_autoscaling_config_from_ray_cr(cluster)
    else:
        values = yaml.safe_load((cluster_folder / f"{request.param}.yaml").read_text())
    return AutoscalingConfig(values, skip_content_hash=True)


@pytest.fixture(scope="module")
def requests(cluster_folder):
    return runpy.run_path(str(cluster_folder / "with_nodes.py"))["requests"]


def launched(pools, bundles, selectors, monitor=None) -> dict[str, int]:
    """The nodes that the autoscaler starts for what `request_resources` asks, by pool."""
    monitor = monitor or CloudResourceMonitor()
    wanted = ClusterResourceConstraint(
        resource_requests=[
            ResourceRequestByCount(request=demand(bundle, selector), count=1)
            for bundle, selector in zip(bundles, selectors, strict=True)
        ]
    )
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=pools.get_node_type_configs(),
            max_num_nodes=pools.get_max_num_nodes(),
            cluster_resource_constraints=[wanted],
            cloud_resource_availabilities=monitor.get_resource_availabilities(),
            recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
        )
    )
    assert not reply.infeasible_cluster_resource_constraints
    return {each.instance_type: each.count for each in reply.to_launch}


def demand(bundle, selector):
    equal = LabelSelectorOperator.LABEL_OPERATOR_IN
    labels = [(key, equal, [value]) for key, value in selector.items()]
    return ResourceRequestUtil.make(bundle, label_selectors=[labels])


def after(status) -> CloudResourceMonitor:
    """What the autoscaler remembers after an instance of gpu-spot came to a status."""
    monitor = CloudResourceMonitor()
    monitor.notify(
        [InstanceUpdateEvent(instance_type="gpu-spot", new_instance_status=status, instance_id="1")]
    )
    return monitor


def test_a_job_gets_spot_gpus_and_data_nodes(pools, requests):
    nodes = launched(pools, *requests(gpus=3, cpus=16))
    cpus = pools.get_node_resources("data")["CPU"]
    assert nodes == {"gpu-spot": 3, "data": 16 // cpus}


def test_on_demand_takes_what_exceeds_spot(pools, requests):
    most = pools.get_node_type_configs()["gpu-spot"].max_worker_nodes
    assert launched(pools, *requests(gpus=most + 2, cpus=0)) == {
        "gpu-spot": most,
        "gpu-on-demand": 2,
    }


def test_cpus_alone_start_no_gpu_node(pools, requests):
    assert set(launched(pools, *requests(gpus=0, cpus=1))) == {"data"}


def test_a_launch_that_fails_leaves_spot_first(pools, requests):
    monitor = after(Instance.ALLOCATION_FAILED)
    assert launched(pools, *requests(gpus=3, cpus=0), monitor) == {"gpu-spot": 3}


def test_a_node_that_never_joins_sets_spot_back(pools, requests):
    monitor = after(Instance.ALLOCATION_TIMEOUT)
    assert launched(pools, *requests(gpus=3, cpus=0), monitor) == {"gpu-on-demand": 3}


def test_a_node_has_an_hour_to_join_where_the_files_set_no_other_time():
    assert InstanceReconcileConfig().allocate_status_timeout_s == 3600


def test_on_kubernetes_it_has_a_quarter_of_an_hour(cluster_folder):
    cluster = yaml.safe_load((cluster_folder / "kuberay/ray/cluster.yaml").read_text())
    variables = {e["name"]: e["value"] for e in cluster["spec"]["autoscalerOptions"]["env"]}
    program = (
        "from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig\n"
        "print(InstanceReconcileConfig().allocate_status_timeout_s)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert int(shown) == 900


def test_spot_comes_first_again_after_ten_minutes(pools, requests, monkeypatch):
    monitor = after(Instance.ALLOCATION_TIMEOUT)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 590)
    assert launched(pools, *requests(gpus=3, cpus=0), monitor) == {"gpu-on-demand": 3}
    monkeypatch.setattr(time, "time", lambda: now + 601)
    assert launched(pools, *requests(gpus=3, cpus=0), monitor) == {"gpu-spot": 3}


def test_with_nodes_turns_to_on_demand_for_what_spot_did_not_give(pools, requests):
    nodes = launched(pools, *requests(gpus=3, cpus=0, on_demand=2))
    assert nodes == {"gpu-spot": 1, "gpu-on-demand": 2}
