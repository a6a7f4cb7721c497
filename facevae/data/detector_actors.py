"""Detectors in Ray actors: how many there are, where they run, and what each has.

A detector has a GPU where there is one, and threads that decode while it searches: a decoded
photograph is a hundred times its face, and would cost more to move than to decode.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
import torch

from facevae.config import AlignmentConfig, PartsConfig
from facevae.data.detector import MtcnnDetector
from facevae.ray_cluster.nodes import Node, in_pool
from facevae.ray_cluster.placement import ActorPlan, plan_actors

MOST_THREADS = 16
"""that decode for one GPU"""


class DetectorPlan(NamedTuple):
    """The actors, and how many threads of each decode beside the GPU; 0: it decodes itself."""

    actors: ActorPlan
    threads: int = 0

    def load(self, config: AlignmentConfig) -> MtcnnDetector:
        """The detector of the process that calls, which is such an actor."""
        if self.actors.use_gpu:
            return MtcnnDetector(config, "cuda")
        torch.set_num_threads(1)  # as many threads everywhere, so the same bits everywhere
        return MtcnnDetector(config)

    def options(self, parts: int) -> dict[str, Any]:
        """What `map_batches` is told of the actors, of which so many parts keep busy."""
        actors = self.actors
        return {
            "compute": ray.data.ActorPoolStrategy(size=min(actors.actors, parts)),
            "num_cpus": actors.cpus,
            **({"num_gpus": 1} if actors.use_gpu else {}),
            "label_selector": actors.labels or None,
        }


def plan_detectors(config: PartsConfig, nodes: Sequence[Node]) -> DetectorPlan:
    """The detectors of a configuration on a cluster.

    Raises:
        TooSmallError: the cluster cannot hold them; says what to change.
    """
    plan = plan_actors("detector", "parts", config.actors, config.gpu, nodes)
    if not plan.use_gpu:
        return DetectorPlan(plan)
    cpus = min(node.cpus / node.gpus for node in in_pool(nodes, "gpu") if node.gpus >= 1)
    threads = min(MOST_THREADS, int(0.75 * cpus))  # what is left is for whatever else runs
    return DetectorPlan(plan._replace(cpus=float(threads)), max(1, threads))
