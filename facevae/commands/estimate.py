"""What sharding, training and encoding need of nodes, as lines to read."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from facevae.attributes.encode import plan_encoders
from facevae.config import READ_CPUS, EncodingConfig, ModelConfig, ShardsConfig, Split, TrainConfig
from facevae.data.batches import PREFETCHED_BATCHES
from facevae.data.order import GROUPS_PER_WINDOW
from facevae.data.rank import rank_size
from facevae.data.shard_files import ROWS_PER_GROUP
from facevae.errors import TooSmallError, UserError
from facevae.ray_cluster.nodes import Node, in_pool, pool_labels
from facevae.ray_cluster.placement import WorkerPlan, plan_workers, workers_on
from facevae.training.memory import PROCESS, StepMemory, encoder_memory, step_memory

GIB = 2.0**30
READER = 0.6e9
"""bytes of a process that reads and decodes, its images aside"""
BLOCKS_PER_READER = 2
"""windows that Ray Data lets a reader be ahead"""
GPU_GIB = {"T4": 16, "V100": 16, "P100": 16, "L4": 24, "A10G": 24, "A100": 40, "A100-40G": 40,
           "A100-80G": 80, "L40S": 48, "H100": 80, "H200": 141, "B200": 180}  # fmt: skip
"""memory of GPUs by the names that Ray gives them; of others it is not known here"""


class Data(NamedTuple):
    """What is known of the images before anything runs; none: not known."""

    image_size: int
    images: dict[Split, int] | None
    shards: int | None


def node_lines(nodes: Sequence[Node]) -> list[str]:
    """The nodes of a cluster by kind, and how many of each."""
    if not nodes:
        return []
    here = sum(node.is_here for node in nodes)
    pending = f", {len(nodes) - here} could be added" if here < len(nodes) else ""
    lines = [f"nodes: {here} here{pending}"]
    for node, count in Counter(nodes).items():
        parts = [f"{node.cpus:g} CPUs"]
        if node.gpus:
            parts.append(f"{node.gpus:g} GPUs" + (f" ({node.gpu_type})" if node.gpu_type else ""))
        if node.memory:
            parts.append(f"{node.memory / GIB:.1f} GiB")
        parts.append(f"pool {node.pool}" if node.pool else "no pool")
        parts.append("here" if node.is_here else "could be added")
        lines.append(f"  {count} x {', '.join(parts)}")
    return lines


def data_lines(what: str, data: Data) -> list[str]:
    """How many images there are, and in what form."""
    if data.images is None:
        return [f"{what}: not known from here; {data.image_size} pixels per side are assumed"]
    by_split = ", ".join(f"{count} {split}" for split, count in data.images.items())
    return [f"{what}: {by_split}; {data.image_size} pixels per side, in {data.shards} shards"]


def _where(labels: dict[str, str]) -> str:
    return "".join(f" on nodes with {key}={value}" for key, value in labels.items()) or " anywhere"


def shards_lines(
    data: Data, config: ShardsConfig | TrainConfig, nodes: Sequence[Node]
) -> list[str]:
    """What making shards takes.

    Raises:
        TooSmallError: no node has a CPU for it.
        UserError: a node's memory is too small.
    """
    data_nodes = in_pool(nodes, "data")
    tasks = sum(int(node.cpus) for node in data_nodes)
    if not tasks:
        raise TooSmallError("no node has a CPU to draw, crop and encode faces with: add one")
    if data.shards is not None:
        tasks = min(tasks, data.shards)
    stored = config.sharding.images_per_shard * _pixels(data.image_size) / 3
    memory = (
        READER + 2 * stored
    )  # encoded images take less than a byte per pixel, once more in Arrow
    for node in data_nodes:
        _check_memory("shard tasks", int(node.cpus), memory, node, "sharding.images_per_shard")
    return [
        f"shards: {tasks} tasks at a time, of 1 CPU each,"
        f"{_where(pool_labels(nodes, 'data'))}; about {memory / GIB:.1f} GiB each"
    ]


def train_lines(data: Data, config: TrainConfig, nodes: Sequence[Node]) -> list[str]:
    """What training takes: bundles, readers, batches, steps and memory.

    Raises:
        TooSmallError: as `plan_workers`.
        UserError: a node's or a GPU's memory is too small.
    """
    plan = plan_workers(config.scaling, nodes)
    lines = [_bundles(plan), _readers(plan), _steps(data, config)]
    if config.training.precision == "auto":
        lines.append("precision: auto: bf16 where the workers have it natively; counted is fp32")
    for workers in sorted({plan.fewest, plan.workers}):
        lines.append(f"batch: {_shares(config.training.global_batch_size, workers)}")
        # The last rank has the largest share.
        largest = rank_size(config.training.global_batch_size, workers - 1, workers)
        step = step_memory(config, data.image_size, largest, "cuda" if plan.use_gpu else "cpu")
        lines.append(_worker_memory(step, plan))
        for node in set(nodes):
            _check_gpu(step, plan, node)
            _check_workers(step, plan, workers, data, node)
    store = _object_store(data, config, plan)
    lines.append(f"memory of a reader: about {_reader_memory(data) / GIB:.1f} GiB")
    lines.append(
        f"object store: about {store / GIB:.2f} GiB per worker for what is read ahead; "
        "what a node has no room for is spilled to its disk"
    )
    return lines


def _reader_memory(data: Data) -> float:
    return READER + GROUPS_PER_WINDOW * ROWS_PER_GROUP * _pixels(data.image_size)


def _check_workers(
    step: StepMemory, plan: WorkerPlan, workers: int, data: Data, node: Node
) -> None:
    """Whether a node's memory holds as many of the workers as it may get, and their readers."""
    worker = PROCESS + (0 if plan.use_gpu else step.total)
    reads = not plan.reader_labels or node.pool in plan.reader_labels.values()
    readers = plan.readers * _reader_memory(data) if reads else 0
    what = "workers and their readers" if reads else "workers"
    count = min(workers, workers_on(plan, node))
    _check_memory(what, count, worker + readers, node, "training.global_batch_size")


def _bundles(plan: WorkerPlan) -> str:
    count = _many(plan.workers, "worker")
    if plan.fewest < plan.workers:
        count = f"{plan.fewest} to {count}"
    gpu = " and 1 GPU" if plan.use_gpu else ""
    backend = "nccl" if plan.use_gpu else "gloo"
    waits = "; waits until enough nodes are added" if plan.is_waiting else ""
    return (
        f"train: {count} of {plan.cpus:g} CPUs{gpu} each ({backend}, "
        f"{_many(plan.threads, 'thread')}),{_where(plan.worker_labels)}{waits}"
    )


def _readers(plan: WorkerPlan) -> str:
    where = _where(plan.reader_labels)
    return f"readers: {plan.readers} per worker, of {READ_CPUS:g} CPUs each,{where}"


def _shares(batch: int, workers: int) -> str:
    sizes = [rank_size(batch, rank, workers) for rank in range(workers)]
    each = (
        f"{sizes[0]} on each"
        if len(set(sizes)) == 1
        else " + ".join(map(str, sizes))
        if workers <= 8
        else f"{min(sizes)} or {max(sizes)} on each"
    )
    return f"{batch} images per step, with {_many(workers, 'worker')} {each}"


def _steps(data: Data, config: TrainConfig) -> str:
    steps, batch = config.training.steps, config.training.global_batch_size
    if data.images is None:
        return f"steps: {steps}"
    images = data.images["train"]
    if not images:
        raise UserError("the data has no images in its 'train' split: give more, or a --partition")
    epoch = images / batch
    return f"steps: {steps}, {epoch:.4g} per epoch of {images} images; {steps / epoch:.3g} epochs"


def _worker_memory(step: StepMemory, plan: WorkerPlan) -> str:
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in step._asdict().items())
    where = "on its GPU" if plan.use_gpu else "of its node"
    return (
        f"memory of a worker: about {step.total / GIB:.2f} GiB {where} ({parts}, and a quarter of "
        f"the activations for work space), and {PROCESS / GIB:.1f} GiB for its process"
    )


def _check_gpu(step: StepMemory, plan: WorkerPlan, node: Node) -> None:
    known = GPU_GIB.get(node.gpu_type)
    if plan.use_gpu and known and workers_on(plan, node) and step.total > known * GIB:
        raise UserError(
            f"a worker needs about {step.total / GIB:.1f} GiB on its GPU and a {node.gpu_type} "
            f"has {known}: lower training.global_batch_size, or raise scaling.workers"
        )


def _check_memory(what: str, count: int, each: float, node: Node, setting: str) -> None:
    if node.memory and count * each > node.memory:
        raise UserError(
            f"{count} {what} need about {count * each / GIB:.1f} GiB on a node of {node.cpus:g} "
            f"CPUs that has {node.memory / GIB:.1f} GiB: lower {setting}, or take nodes with more "
            "memory a CPU"
        )


def _object_store(data: Data, config: TrainConfig, plan: WorkerPlan) -> float:
    """Bytes that a worker's readers and prefetched batches hold, with the fewest workers."""
    window = math.ceil(GROUPS_PER_WINDOW * ROWS_PER_GROUP / plan.fewest)
    batch = rank_size(config.training.global_batch_size, plan.fewest - 1, plan.fewest)
    images = plan.readers * BLOCKS_PER_READER * window + PREFETCHED_BATCHES * batch
    return images * _pixels(data.image_size)


def encode_lines(
    data: Data, config: EncodingConfig, model: ModelConfig | None, nodes: Sequence[Node]
) -> list[str]:
    """What the attribute pass takes; the model is none where it cannot be read.

    Raises:
        TooSmallError: as `plan_encoders`.
        UserError: a node's memory is too small.
    """
    plan = plan_encoders(config, nodes)
    actors = plan.actors if data.shards is None else min(plan.actors, data.shards)
    bundle = "1 GPU" if plan.use_gpu else f"{plan.cpus:.3g} CPUs"
    lines = [f"attributes: {actors} encoders of {bundle} each,{_where(plan.encoder_labels)}"]
    if config.precision == "auto":
        lines.append("precision: auto: bf16 where the encoders have it natively")
    shard = ShardsConfig().sharding.images_per_shard
    if data.shards and data.images:
        shard = math.ceil(sum(data.images.values()) / data.shards)
    decoded = READER + 2 * shard * _pixels(data.image_size)
    if plan.use_gpu:
        lines.append(
            f"readers: tasks of 1 CPU each,{_where(plan.reader_labels)}; about "
            f"{decoded / GIB:.1f} GiB each"
        )
    if model is None:
        return [*lines, "memory of an encoder: not known, since the model cannot be read from here"]
    encoder = encoder_memory(model, config.batch_size)
    if plan.use_gpu:
        return [*lines, f"memory of an encoder: about {encoder / GIB:.2f} GiB on its GPU"]
    for node in in_pool(nodes, "data"):
        on_node = min(actors, int(node.cpus / plan.cpus))
        _check_memory("encoders", on_node, decoded + encoder, node, "encoding.actors")
    return [*lines, f"memory of an encoder: about {(decoded + encoder) / GIB:.2f} GiB"]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _pixels(image_size: int) -> float:
    """Bytes of one decoded image."""
    return 3.0 * image_size**2
