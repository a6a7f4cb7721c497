"""Nodes and pools: what is here, what could be added, which labels work asks for; jobs' names."""

import json
from types import SimpleNamespace

import pytest

from facevae.errors import UserError
from facevae.ray_cluster.nodes import (
    GROUP_LABEL,
    MANY,
    POOL_LABEL,
    Node,
    NodeGroup,
    in_pool,
    node_groups,
    node_of,
    planned_nodes,
    pool_labels,
    ray,
)

GPU = NodeGroup("gpu-spot", {"CPU": 8, "GPU": 1}, 3)
DATA = NodeGroup("data", {"CPU": 16}, 2)


def test_a_node_by_what_ray_tells():
    resources = {"CPU": 8.0, "GPU": 2.0, "memory": 3e10,
                 "accelerator_type:L4": 1.0}  # fmt: skip
    expected = Node(8, 2, 3e10, "gpu", "L4", is_here=True)
    assert node_of(resources, {POOL_LABEL: "gpu"}) == expected
    assert node_of(resources, {"ray.io/accelerator-type": "T4"}).gpu_type == "T4"
    assert node_of({}, {}) == Node(0, 0)


def test_groups_scaled_to_zero_are_all_pending():
    assert (
        planned_nodes([], [GPU, DATA])
        == [Node(8, 1, pool="gpu", is_here=False)] * 3
        + [Node(16, 0, pool="data", is_here=False)] * 2
    )


@pytest.mark.parametrize("has_groups", [True, False])
def test_nodes_that_are_here_are_not_pending(has_groups):
    """Where labels do not tell the group, pool and size do."""
    living = [
        ({"CPU": 8, "GPU": 1}, {POOL_LABEL: "gpu", GROUP_LABEL: "gpu-spot"}),
        ({"CPU": 16}, {POOL_LABEL: "data", GROUP_LABEL: "data"}),
        ({"CPU": 4}, {GROUP_LABEL: "head"}),
    ]
    if not has_groups:
        for _, labels in living:
            del labels[GROUP_LABEL]
    nodes = planned_nodes(living, [GPU, DATA])
    assert nodes[:3] == [Node(8, 1, pool="gpu"), Node(16, 0, pool="data"), Node(4, 0)]
    assert [node.pool for node in nodes[3:]] == ["gpu", "gpu", "data"]


def test_a_node_without_group_counts_in_one_group_only():
    spot, fixed = GPU, NodeGroup("gpu-on-demand", {"CPU": 8, "GPU": 1}, 2)
    living = [({"CPU": 8, "GPU": 1}, {POOL_LABEL: "gpu"})]
    assert len(planned_nodes(living, [spot, fixed])) == 1 + 4


@pytest.mark.parametrize(
    ("name", "pool"),
    [("gpu", "gpu"), ("gpu-on-demand", "gpu"), ("data-large", "data"), ("gpus", None), ("w", None)],
)
def test_a_group_is_named_by_its_pool_first(name, pool):
    (node,) = planned_nodes([], [NodeGroup(name, {"CPU": 1}, 1)])
    assert node.pool == pool


def test_a_group_without_limit_gives_many_nodes():
    assert len(planned_nodes([], [GPU._replace(most=-1)])) == MANY


def test_pools_that_exist_get_their_work_and_others_leave_it_to_all():
    head, gpu = Node(4, 0), Node(8, 1, pool="gpu", is_here=False)
    assert in_pool([head, gpu], "gpu") == [gpu]
    assert in_pool([head, gpu], "data") == [head, gpu]
    assert pool_labels([head, gpu], "gpu") == {"facevae-pool": "gpu"}
    assert pool_labels([head, gpu], "data") == {}


@pytest.fixture
def no_groups(monkeypatch, tmp_path):
    monkeypatch.delenv("FACEVAE_NODE_GROUPS", raising=False)
    state = SimpleNamespace(get_cluster_config=lambda: None)
    monkeypatch.setattr(ray._private.state, "state", state)
    monkeypatch.setattr("facevae.ray_cluster.nodes.BOOTSTRAP_FILE", tmp_path / "bootstrap.yaml")
    return SimpleNamespace(state=state, file=tmp_path / "bootstrap.yaml", env=monkeypatch.setenv)


def test_a_cluster_that_nothing_tells_of_does_not_grow(no_groups):
    assert node_groups() == []


def test_groups_are_those_of_the_variable(no_groups):
    types = {"gpu-spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3}}
    no_groups.env("FACEVAE_NODE_GROUPS", json.dumps(types))
    assert node_groups() == [GPU]


@pytest.mark.parametrize("text", ["{", "[1]", '{"gpu": 3}', '{"gpu": {"max_workers": "x"}}'])
def test_a_variable_of_another_form_is_refused(no_groups, text):
    no_groups.env("FACEVAE_NODE_GROUPS", text)
    with pytest.raises(UserError, match="FACEVAE_NODE_GROUPS is not of the form"):
        node_groups()


def test_groups_are_those_of_the_file_of_ray_up_without_the_head(no_groups):
    no_groups.file.write_text(
        "head_node_type: head\n"
        "available_node_types:\n"
        "  head: {resources: {CPU: 4}, max_workers: 0, node_config: {}}\n"
        "  gpu-spot: {resources: {CPU: 8, GPU: 1}, min_workers: 0, max_workers: 3}\n"
    )
    assert node_groups() == [GPU]


def test_groups_are_those_of_rays_own_record(no_groups):
    from ray.core.generated import autoscaler_pb2

    record = autoscaler_pb2.ClusterConfig()
    group = record.node_group_configs.add()
    group.name, group.max_count = "gpu-spot", 3
    group.resources.update({"CPU": 8, "GPU": 1})
    no_groups.state.get_cluster_config = lambda: record
    assert node_groups() == [GPU]
