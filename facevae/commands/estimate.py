"""What aligning, sharding, training and encoding need of nodes, as lines to read."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from facevae.attributes.encode import plan_encoders
from facevae.config import (
    READ_CPUS,
    AlignConfig,
    EncodingConfig,
    ModelConfig,
    PartsConfig,
    ShardsConfig,
    Split,
    TrainConfig,
)
from facevae.data.batches import PREFETCHED_BATCHES
from facevae.data.detector_actors import DetectorPlan, plan_detectors
from facevae.data.order import GROUPS_PER_WINDOW
from facevae.data.rank import rank_size
from facevae.data.shard_files import ROWS_PER_GROUP
from facevae.errors import TooSmallError, UserError
from facevae.ray_cluster.nodes import Node, in_pool, pool_labels
from facevae.ray_cluster.placement import allows, plan_workers, workers_on
from facevae.training.memory import PROCESS, encoder_memory, step_memory

GIB = 2.0**30
READER = 0.6e9
"""bytes of a process that reads and decodes, its images aside"""
DETECTOR = 2.6e9
"""bytes of a process that searches a photograph of 16 megapixels for faces of any size"""
BLOCKS_PER_READER = 2
"""windows that Ray Data lets a reader be ahead"""
CUDA = 1.0 * GIB
"""of CUDA's context and cuDNN's work space on a GPU; 0.6 to 1 GiB on an H200"""
GPU_GIB = {"T4": 16, "L4": 24, "A10G": 24, "A100": 40, "A100-40G": 40, "A100-80G": 80, "L40S": 48,
           "H100": 80, "H200": 141, "B200": 180}  # fmt: skip
"""memory of GPUs by the names that Ray gives them; of others it is not known here"""


class Data(NamedTuple):
    """What is known of the images before anything runs; none: not known."""

    image_size: int
    images: dict[Split, int] | None = None
    shards: int | None = None

    @property
    def bytes_per_image(self) -> float:
        """Of a decoded image."""
        return 3.0 * self.image_size**2


def node_lines(nodes: Sequence[Node]) -> list[str]:
    """The nodes of a cluster by kind, and how many of each."""
    if not nodes:
        return []
    here = sum(node.is_here for node in nodes)
    pending = f", {len(nodes) - here} could be added" if here < len(nodes) else ""
    lines = [f"nodes: {here} here{pending}"]
    for node, count in Counter(nodes).items():
        gpu_type = f" ({node.gpu_type})" if node.gpu_type else ""
        parts = [
            f"{node.cpus:g} CPUs",
            f"{node.gpus:g} GPUs{gpu_type}" if node.gpus else "",
            f"{node.memory / GIB:.1f} GiB" if node.memory else "",
            f"pool {node.pool}" if node.pool else "no pool",
            "here" if node.is_here else "could be added",
        ]
        lines.append(f"  {count} x {', '.join(filter(None, parts))}")
    return lines


def data_lines(what: str, data: Data) -> list[str]:
    """How many images there are, and in what form."""
    if data.images is None:
        return [f"{what}: not known from here; {data.image_size} pixels per side are assumed"]
    by_split = ", ".join(f"{count} {split}" for split, count in data.images.items())
    return [f"{what}: {by_split}; {data.image_size} pixels per side, in {data.shards} shards"]


def shards_lines(
    data: Data, config: ShardsConfig | TrainConfig, nodes: Sequence[Node]
) -> list[str]:
    """What making shards takes.

    Raises:
        TooSmallError: no node has a CPU for it.
        UserError: a node's memory is too small.
    """
    if config.sharding.align:
        plan = plan_detectors(PartsConfig(), nodes)
        return _detector_lines("shards", plan, data.shards, nodes)
    data_nodes = in_pool(nodes, "data")
    tasks = sum(int(node.cpus) for node in data_nodes)
    if not tasks:
        raise TooSmallError("no node has a CPU to draw, crop and encode faces with: add one")
    # Encoded images take less than a byte per pixel, and once more in Arrow.
    memory = READER + 2 * config.sharding.images_per_shard * data.image_size**2
    for node in data_nodes:
        _check_memory("shard tasks", int(node.cpus), memory, node, "sharding.images_per_shard")
    return [
        f"shards: {min(tasks, data.shards or tasks)} tasks at a time, of 1 CPU each,"
        f"{_where(pool_labels(nodes, 'data'))}; about {memory / GIB:.1f} GiB each"
    ]


def align_lines(photographs: int | None, config: AlignConfig, nodes: Sequence[Node]) -> list[str]:
    """What aligning photographs takes; their number is none where it is not known.

    Raises:
        TooSmallError: as `plan_detectors`.
    """
    size = config.parts.images
    parts = None if photographs is None else math.ceil(photographs / size)
    known = "not known from here" if parts is None else f"{photographs}, in {_many(parts, 'part')}"
    lines = [f"photographs: {known} of {size} at most"]
    return lines + _detector_lines("align", plan_detectors(config.parts, nodes), parts, nodes)


def _detector_lines(
    title: str, plan: DetectorPlan, parts: int | None, nodes: Sequence[Node]
) -> list[str]:
    actors = plan.actors
    count = min(actors.actors, parts or actors.actors)
    bundle = f"{actors.cpus:.3g} CPUs"
    if actors.use_gpu:
        bundle = f"1 GPU and {bundle}"
    lines = [
        f"{title}: {_many(count, 'detector')} of {bundle} each,{_where(actors.labels)}; up to "
        f"{DETECTOR / GIB:.1f} GiB each, for a large photograph without a face"
    ]
    for node in in_pool(nodes, "gpu" if actors.use_gpu else "data"):
        fit = min(count, int(node.gpus) if actors.use_gpu else int(node.cpus / actors.cpus))
        if node.memory and fit * DETECTOR > node.memory:
            lines.append(
                f"warning: {_many(fit, 'detector')} on a node of {node.memory / GIB:.1f} GiB: too "
                "many if all meet large photographs without a face at once"
            )
            break
    return lines


def train_lines(data: Data, config: TrainConfig, nodes: Sequence[Node]) -> list[str]:
    """What training takes: bundles, readers, batches, steps and memory.

    Raises:
        TooSmallError: as `plan_workers`.
        UserError: a node's or a GPU's memory is too small, or there is nothing to train on.
    """
    plan = plan_workers(config.scaling, nodes)
    steps, batch = config.training.steps, config.training.global_batch_size
    window = GROUPS_PER_WINDOW * ROWS_PER_GROUP
    reader = READER + window * data.bytes_per_image
    ahead = plan.readers * BLOCKS_PER_READER * window + PREFETCHED_BATCHES * batch
    store = ahead * data.bytes_per_image / plan.fewest
    fewest = f"{plan.fewest} to " if plan.fewest < plan.workers else ""
    gpu, backend = (" and 1 GPU", "nccl") if plan.use_gpu else ("", "gloo")
    device, where = ("cuda", "on its GPU") if plan.use_gpu else ("cpu", "of its node")
    waits = "; waits until enough nodes are added" if plan.is_waiting else ""
    lines = [
        f"train: {fewest}{_many(plan.workers, 'worker')} of {plan.cpus:g} CPUs{gpu} each "
        f"({backend}, {_many(plan.threads, 'thread')}),{_where(plan.worker_labels)}{waits}",
        f"readers: {plan.readers} per worker, of {READ_CPUS:g} CPUs each,"
        f"{_where(plan.reader_labels)}",
        f"memory of a reader: about {reader / GIB:.1f} GiB",
        f"object store: about {store / GIB:.2f} GiB per worker for what is read "
        "ahead; what a node has no room for is spilled to its disk",
        f"steps: {steps}{_epochs(data, steps, batch)}",
    ]
    if config.training.precision == "auto":
        lines.append("precision: auto: bf16 where the workers have it natively; counted is fp32")
    for workers in sorted({plan.fewest, plan.workers}):
        sizes = [rank_size(batch, rank, workers) for rank in range(workers)]
        step = step_memory(config, data.image_size, max(sizes), device)
        own = CUDA if plan.use_gpu else 0.0
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in step._asdict().items())
        lines += [
            f"batch: {batch} images per step, with {_many(workers, 'worker')} {_each(sizes)}",
            f"memory of a worker: about {step.total / GIB:.2f} GiB {where} ({parts}, and a quarter "
            f"of the activations for work space), and {PROCESS / GIB:.1f} GiB for its process"
            + (f"; {CUDA / GIB:.1f} GiB more on the GPU for CUDA itself" if own else ""),
        ]
        for node in set(nodes):
            count = min(workers, workers_on(plan, node))
            gpu_gib = GPU_GIB.get(node.gpu_type, math.inf)
            if plan.use_gpu and count and step.total + own > gpu_gib * GIB:
                raise UserError(
                    f"a worker needs about {(step.total + own) / GIB:.1f} GiB on its GPU and a "
                    f"{node.gpu_type} has {gpu_gib}: lower training.global_batch_size, or raise "
                    "scaling.workers"
                )
            readers = plan.readers * reader if allows(node, plan.reader_labels) else 0
            each = PROCESS + (0 if plan.use_gpu else step.total) + readers
            what = "workers and their readers" if readers else "workers"
            _check_memory(what, count, each, node, "training.global_batch_size")
    return lines


def encode_lines(
    data: Data,
    config: EncodingConfig,
    model: ModelConfig | None,
    nodes: Sequence[Node],
    title: str = "attributes",
) -> list[str]:
    """What a pass of encoders takes; the model is none where it cannot be read.

    Raises:
        TooSmallError: as `plan_encoders`.
        UserError: a node's memory is too small.
    """
    plan = plan_encoders(config, nodes)
    actors = min(plan.actors, data.shards or plan.actors)
    bundle = "1 GPU" if plan.use_gpu else f"{plan.cpus:.3g} CPUs"
    shard = ShardsConfig().sharding.images_per_shard
    if data.shards and data.images:
        shard = math.ceil(sum(data.images.values()) / data.shards)
    reader = READER + 2 * shard * data.bytes_per_image
    lines = [f"{title}: {actors} encoders of {bundle} each,{_where(plan.labels)}"]
    if config.precision == "auto":
        lines.append("precision: auto: bf16 where the encoders have it natively")
    if plan.use_gpu:
        where = _where(plan.reader_labels)
        lines.append(f"readers: tasks of 1 CPU each,{where}; about {reader / GIB:.1f} GiB each")
    if model is None:
        return [*lines, "memory of an encoder: not known, since the model cannot be read from here"]
    memory = encoder_memory(model, config.batch_size)
    if plan.use_gpu:
        return [*lines, f"memory of an encoder: about {memory / GIB:.2f} GiB on its GPU"]
    memory += reader
    for node in in_pool(nodes, "data"):
        count = min(actors, int(node.cpus / plan.cpus))
        _check_memory("encoders", count, memory, node, "encoding.actors")
    return [*lines, f"memory of an encoder: about {memory / GIB:.2f} GiB"]


def _check_memory(what: str, count: int, each: float, node: Node, setting: str) -> None:
    if node.memory and count * each > node.memory:
        raise UserError(
            f"{count} {what} need about {count * each / GIB:.1f} GiB on a node of {node.cpus:g} "
            f"CPUs that has {node.memory / GIB:.1f} GiB: lower {setting}, or take nodes with more "
            "memory per CPU"
        )


def _epochs(data: Data, steps: int, batch: int) -> str:
    """How many epochs so many steps are, where that is known."""
    if data.images is None:
        return ""
    images = data.images["train"]
    if not images:
        raise UserError("the data has no images in its 'train' split: give more, or a --partition")
    epoch = images / batch
    return f", {epoch:.4g} per epoch of {images} images; {steps / epoch:.3g} epochs"


def _each(sizes: Sequence[int]) -> str:
    """What each worker takes of a batch."""
    different = sorted(set(sizes))
    if len(different) > 1 and len(sizes) <= 8:
        return " + ".join(map(str, sizes))
    return f"{' or '.join(map(str, different))} on each"


def _where(labels: dict[str, str]) -> str:
    return "".join(f" on nodes with {key}={value}" for key, value in labels.items()) or " anywhere"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
