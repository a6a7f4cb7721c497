"""Which arithmetic a run computes in: chosen where its work is done, once for all of the run."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import ray
import torch

from facevae.attributes.encode import plan_encoders
from facevae.config import Arithmetic, EncodingConfig, Precision
from facevae.errors import UserError
from facevae.models.precision import resolve_precision
from facevae.ray_cluster.nodes import Node
from facevae.ray_cluster.placement import ActorPlan
from facevae.runs.progress import log
from facevae.training.failures import MINUTES_FOR_NODES


def choose_precision(
    setting: str,
    wanted: Precision,
    recorded: str | None,
    nodes: Sequence[Node],
    *,
    use_gpu: bool,
    cpus: float,
    labels: Mapping[str, str],
) -> Arithmetic:
    """The arithmetic of a run, which its output folder is to record; says what auto came to.

    A Ray task looks at a node that does the work, which this process is rarely on; where there is
    one node only, and no GPU, this process does.

    Args:
        setting: the name of the setting, such as `training.precision`.
        wanted: its value.
        recorded: what the run computed in before; none: it begins.
        nodes: the nodes of the cluster.
        use_gpu: whether the work is done on GPUs.
        cpus: what one of its processes reserves.
        labels: of the nodes where they run.

    Raises:
        UserError: no such node has room, nor is added, in half an hour.
    """
    going_on = wanted == "auto" and recorded in get_args(Arithmetic)
    if going_on:
        wanted = "bf16" if recorded == "bf16" else "fp32"
    device = torch.device("cuda" if use_gpu else "cpu")
    if wanted == "fp32" or (len(nodes) == 1 and not use_gpu):
        choice = resolve_precision(wanted, device)
    else:
        task = ray.remote(resolve_precision).options(
            num_cpus=cpus, num_gpus=float(use_gpu), label_selector=dict(labels) or None
        )
        try:
            choice = ray.get(task.remote(wanted, device), timeout=60 * MINUTES_FOR_NODES)
        except ray.exceptions.GetTimeoutError as error:
            raise UserError(
                f"no node had room in {MINUTES_FOR_NODES} minutes to tell whether it has bf16 "
                f"({cpus:g} CPUs{', 1 GPU' if use_gpu else ''}): add one, or give --{setting} fp32"
            ) from error
    if going_on:
        log(f"{setting} auto: {choice.arithmetic}, as this run began")
    elif wanted == "auto":
        why = "which is native here" if choice.arithmetic == "bf16" else "for bf16 is not native"
        log(f"{setting} auto: {choice.arithmetic}, {why}")
    if choice.slowdown is not None:
        log(
            f"warning: no bf16 instructions here: bf16 takes {choice.slowdown:.2g} times as long "
            f"as fp32; in a new folder, --{setting} auto takes fp32"
        )
    return choice.arithmetic


def plan_encoding(
    config: EncodingConfig, claimed: Mapping[str, Any], nodes: Sequence[Node]
) -> tuple[ActorPlan, EncodingConfig]:
    """The encoders of a pass, and its settings with the arithmetic that it computes in.

    Args:
        config: the settings.
        claimed: the identity that the output folder was claimed with.
        nodes: the nodes of the cluster.

    Raises:
        UserError: the cluster cannot hold the encoders.
    """
    plan = plan_encoders(config, nodes)
    precision = choose_precision(
        "encoding.precision",
        config.precision,
        claimed.get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.labels,
    )
    return plan, config.model_copy(update={"precision": precision})
