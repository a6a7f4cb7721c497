"""Gets the nodes that a job needs from the autoscaler, then runs the job.

    python cluster/with_nodes.py --gpus 4 --cpus 16 -- python jobs/train.py ...

The GPUs of the pool `gpu` and the CPUs of the pool `data` are asked for and awaited. A cloud that
has no spot GPUs refuses them for ever (Ray asks on), so after `--patience` seconds the missing ones
are asked of on-demand nodes. When the job ends the request ends, and idle nodes leave.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import ray
from ray.autoscaler.sdk import request_resources

POOL = "facevae-pool"
CAPACITY = "facevae-capacity"
POLL_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run the command of the arguments once its nodes are there; returns its exit code."""
    options = _options(arguments)
    ray.init(log_to_driver=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `ray job stop`: let go of the nodes
    try:
        if not _await_nodes(options):
            return 2
        # Ray tells the command to stop too, and it keeps a checkpoint first: wait for that.
        signal.signal(signal.SIGTERM, lambda *_: None)
        return subprocess.run(options.command, check=False).returncode
    finally:
        request_resources(bundles=[])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the pool gpu")
    parser.add_argument("--cpus", type=int, default=0, help="CPUs of the pool data")
    parser.add_argument("--patience", type=float, default=600, help="seconds given to spot GPUs")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds until it gives up")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND")
    return parser.parse_args(arguments)


def _await_nodes(options: argparse.Namespace) -> bool:
    """Whether the nodes came in time."""
    start = time.monotonic()
    asked, shown = None, None
    while True:
        waited = time.monotonic() - start
        gpus, cpus = pool_total("gpu", "GPU"), pool_total("data", "CPU")
        if gpus >= options.gpus and cpus >= options.cpus:
            return True
        state = (
            f"{gpus} of {options.gpus} GPUs in the pool gpu, "
            f"{cpus} of {options.cpus} CPUs in the pool data"
        )
        if waited > options.timeout:
            print(
                f"with_nodes: {state} after {waited:.0f} s; `ray status` says why, "
                "max_workers or maxReplicas of the pools may be too low",
                file=sys.stderr,
            )
            return False
        on_demand = max(0, options.gpus - gpus) if waited > options.patience else 0
        wanted = requests(options.gpus, options.cpus, on_demand)
        if wanted != asked:
            request_resources(bundles=wanted[0], bundle_label_selectors=wanted[1])
            asked = wanted
        if state != shown:
            print(f"with_nodes: waiting, {state}", flush=True)
            shown = state
        time.sleep(POLL_S)


def requests(
    gpus: int, cpus: int, on_demand: int = 0
) -> tuple[list[dict[str, int]], list[dict[str, str]]]:
    """The bundles to ask for and their label selectors; `on_demand` of the GPUs not as spot."""
    bundles = [{"GPU": 1}] * gpus + [{"CPU": 1}] * cpus
    selectors = (
        [{POOL: "gpu"}] * (gpus - on_demand)
        + [{POOL: "gpu", CAPACITY: "on-demand"}] * on_demand
        + [{POOL: "data"}] * cpus
    )
    return bundles, selectors


def pool_total(pool: str, resource: str) -> int:
    """How much of a resource the living nodes of a pool have."""
    return sum(
        int(node["Resources"].get(resource, 0))
        for node in ray.nodes()
        if node["Alive"] and node["Labels"].get(POOL) == pool
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
