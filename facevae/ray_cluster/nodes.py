"""The nodes of a Ray cluster, those that its autoscaler may add, and its pools.

A cluster may have pools: nodes whose label `facevae-pool` is `gpu` train and encode, those where it
is `data` read and decode. Where a pool does not exist, its work runs anywhere.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray
import ray._private.state
import yaml

from facevae.errors import UserError

POOL_LABEL = "facevae-pool"
Pool = Literal["gpu", "data"]
POOLS: tuple[Pool, ...] = ("gpu", "data")
GROUP_LABEL, GPU_LABEL = "ray.io/node-group", "ray.io/accelerator-type"
GROUPS_VARIABLE = "FACEVAE_NODE_GROUPS"
BOOTSTRAP_FILE = Path("~/ray_bootstrap_config.yaml")
UNSUPPORTED_GPUS = frozenset(("K80", "M60", "P4", "P40", "P100", "V100"))
"""whose compute capability is below 7.5, for which PyTorch's wheels of CUDA 13 have no kernels"""
MANY = 100
"""how many nodes of a group without limit are planned with"""


class Node(NamedTuple):
    """The logical resources of one node, and the pool that it belongs to.

    Memory is in bytes, 0 where it is not known; a node that is not here could be added by the
    cluster's autoscaler.
    """

    cpus: float
    gpus: float
    memory: float = 0.0
    pool: str | None = None
    gpu_type: str = ""
    is_here: bool = True

    @property
    def has_unsupported_gpu(self) -> bool:
        """Whether it has a GPU that is too old for PyTorch."""
        kind = self.gpu_type.upper().removeprefix("NVIDIA-").removeprefix("TESLA-")
        return self.gpus > 0 and kind.partition("-")[0] in UNSUPPORTED_GPUS


class NodeGroup(NamedTuple):
    """A kind of node that the autoscaler adds: up to `most` of them, without limit if -1."""

    name: str
    resources: Mapping[str, float]
    most: int


def cluster_nodes() -> list[Node]:
    """Every living node, and those that the autoscaler could still add."""
    living = [(node["Resources"], node["Labels"] or {}) for node in ray.nodes() if node["Alive"]]
    return planned_nodes(living, node_groups())


def draining_nodes() -> frozenset[str]:
    """The nodes that have been told to go, as spot machines are minutes before they are taken.

    Ray's public call for it makes all workers of a training wait for each other.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


def node_of(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    """A living node by its resources and labels, as Ray tells them."""
    kinds = (key.partition(":")[2] for key in resources if key.startswith("accelerator_type:"))
    return Node(
        float(resources.get("CPU", 0)),
        float(resources.get("GPU", 0)),
        float(resources.get("memory", 0)),
        labels.get(POOL_LABEL),
        labels.get(GPU_LABEL) or next(kinds, ""),
    )


def planned_nodes(
    living: Sequence[tuple[Mapping[str, float], Mapping[str, str]]], groups: Iterable[NodeGroup]
) -> list[Node]:
    """The living nodes, and those that groups may still get beside them.

    A living node whose label does not tell its group counts in the first group of its pool and
    size.

    Args:
        living: resources and labels of each living node, as Ray tells them.
        groups: the groups of the cluster.
    """
    here = [node_of(resources, labels) for resources, labels in living]
    members = Counter(labels.get(GROUP_LABEL) for _, labels in living)
    unlabelled = Counter(
        (node.pool, node.cpus, node.gpus)
        for node, (_, labels) in zip(here, living, strict=True)
        if GROUP_LABEL not in labels
    )
    pending = []
    for group in groups:
        pool = next((p for p in POOLS if group.name == p or group.name.startswith(f"{p}-")), None)
        node = node_of(group.resources, {POOL_LABEL: pool} if pool else {})._replace(is_here=False)
        missing = max((MANY if group.most < 0 else group.most) - members[group.name], 0)
        alike = min(unlabelled[pool, node.cpus, node.gpus], missing)
        unlabelled[pool, node.cpus, node.gpus] -= alike
        pending += [node] * (missing - alike)
    return here + pending


def node_groups() -> list[NodeGroup]:
    """The groups of an autoscaled cluster; none where nothing tells.

    FACEVAE_NODE_GROUPS says it as JSON, in the form of `available_node_types` in the files of
    `ray up`; such a cluster has its file on the head node. Ray's own record is private, and only
    some platforms fill it in; no public call tells what a cluster may grow to.

    Raises:
        UserError: the variable is of another form.
    """
    declared = declared_groups()
    if declared is not None:
        return declared
    record = ray._private.state.state.get_cluster_config()
    if record is not None and record.node_group_configs:
        return [
            NodeGroup(group.name, dict(group.resources), group.max_count)
            for group in record.node_group_configs
        ]
    file = BOOTSTRAP_FILE.expanduser()
    if not file.is_file():
        return []
    config = yaml.safe_load(file.read_text("utf-8"))
    types = config.get("available_node_types", {})
    return [group for group in _groups(types) if group.name != config.get("head_node_type")]


def declared_groups() -> list[NodeGroup] | None:
    """The groups that FACEVAE_NODE_GROUPS names; none where it is not set.

    Raises:
        UserError: the variable is of another form.
    """
    given = os.environ.get(GROUPS_VARIABLE)
    if not given:
        return None
    try:
        return _groups(json.loads(given))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{GROUPS_VARIABLE} is not of the form "
            '{"gpu-spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3}}: '
            f"found {given[:80]}"
        ) from error


def _groups(types: Mapping[str, Any]) -> list[NodeGroup]:
    return [
        NodeGroup(name, each.get("resources", {}), int(each.get("max_workers", 0)))
        for name, each in types.items()
    ]


def in_pool(nodes: Sequence[Node], pool: Pool) -> list[Node]:
    """The nodes of a pool, or all where there is no such pool."""
    return [node for node in nodes if node.pool == pool] or list(nodes)


def pool_labels(nodes: Sequence[Node], pool: Pool) -> dict[str, str]:
    """The labels of the nodes that a pool's work goes to; none where there is no such pool."""
    return {POOL_LABEL: pool} if any(node.pool == pool for node in nodes) else {}
