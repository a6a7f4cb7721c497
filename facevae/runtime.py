"""The Ray cluster that the verbs run on: an existing one, or this machine; its nodes and pools.

A cluster may have pools: nodes whose label `facevae-pool` is `gpu` train and encode, those where it
is `data` read and decode. Where a pool does not exist, its work runs anywhere.
"""

import contextlib
import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray
import ray._private.state
import yaml

from facevae.errors import UserError

# glibc returns every large tensor's pages to the kernel and faults them in again at each step;
# keeping them makes CPU training about twice as fast. It must be set before a process starts.
ALLOCATOR_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
# Ray Train's controller polls its workers at this interval; 2 s, the default, delays checkpoints.
TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# What Ray raises in the driver when a node or a process goes that one of its own actors was on.
# The second is of one that Ray Data keeps for all drivers, on the node of the first that came.
LOST_PROCESS = (
    ray.exceptions.RayActorError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)

POOL_LABEL = "facevae-pool"
Pool = Literal["gpu", "data"]
POOLS: tuple[Pool, ...] = ("gpu", "data")
GROUP_LABEL, GPU_LABEL = "ray.io/node-group", "ray.io/accelerator-type"
GROUPS_VARIABLE = "FACEVAE_NODE_GROUPS"
BOOTSTRAP_FILE = Path("~/ray_bootstrap_config.yaml")
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


class NodeGroup(NamedTuple):
    """A kind of node that the autoscaler adds: up to `most` of them, without limit if -1."""

    name: str
    resources: Mapping[str, float]
    most: int


def connect() -> None:
    """Attach to the cluster of RAY_ADDRESS (as inside a job), or start Ray on this machine.

    Token authentication is on, Ray's default: its ports listen on all of the machine's addresses,
    and every connection needs the token.
    """
    if ray.is_initialized():
        return
    attaches = "RAY_ADDRESS" in os.environ
    os.environ.update(TRAIN_ENVIRONMENT)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if attaches:
        ray.init(runtime_env={"env_vars": ALLOCATOR_ENVIRONMENT | TRAIN_ENVIRONMENT}, **options)
    else:
        # A dashboard is for clusters; on one machine it costs seconds and memory. What the
        # processes inherit needs no runtime environment, which starts Python twice for each.
        # Without "local" Ray attaches to whatever cluster was started on this machine last.
        with _variables(ALLOCATOR_ENVIRONMENT):
            ray.init("local", include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """A block in which the environment has these variables too."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def nodes_to_go() -> frozenset[str]:
    """The nodes that have been told to go, as spot machines are minutes before they are taken.

    Ray's public call for it makes all workers of a training wait for each other.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


@contextlib.contextmanager
def errors_left_out() -> Iterator[None]:
    """A block whose Ray Data jobs go on without the rows whose task failed or died."""
    context = ray.data.DataContext.get_current().copy()
    context.max_errored_blocks = -1
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it prints the traceback of each
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


def nodes() -> list[Node]:
    """Every living node, and those that the autoscaler could still add."""
    living = [(node["Resources"], node["Labels"] or {}) for node in ray.nodes() if node["Alive"]]
    return planned_nodes(living, node_groups())


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
    types = dict(config.get("available_node_types", {}))
    types.pop(config.get("head_node_type"), None)
    return _groups_of_types(types)


def declared_groups() -> list[NodeGroup] | None:
    """The groups that FACEVAE_NODE_GROUPS names; none where it is not set.

    Raises:
        UserError: the variable is of another form.
    """
    given = os.environ.get(GROUPS_VARIABLE)
    if not given:
        return None
    try:
        return _groups_of_types(json.loads(given))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{GROUPS_VARIABLE} is not of the form "
            '{"gpu-spot": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3}}: '
            f"found {given[:80]}"
        ) from error


def _groups_of_types(types: Mapping[str, Any]) -> list[NodeGroup]:
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
