"""A rehearsal cluster on one machine: what a cluster has, as processes with loopback addresses.

`up` starts Postgres (SQLite where there is none), an S3 server, MLflow over both, a Ray head
without CPUs and N Ray workers, each with an address of its own. `env` prints what a client needs.
`kill` and `start` rehearse a part that dies and comes back. `down` ends what `up` started, and
nothing else. All data is gone after `down`: the S3 server keeps it in memory.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from processes import Cluster, StartError, kill
from services import REPOSITORY, start_again, up

FOLDER = Path(os.environ.get("FACEVAE_CLUSTER", REPOSITORY / "runs" / "cluster"))


def exports(cluster: Cluster) -> str:
    """Shell lines that give a client the cluster's addresses and keys.

    Raises:
        StartError: no cluster is up.
    """
    if not cluster.is_up:
        raise StartError("no cluster is up; say cluster/local up --workers 2")
    values = cluster.environment.items()
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values)


def main() -> int:
    """Run `cluster/local`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cluster/local", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="verb", required=True)
    start = commands.add_parser("up", help="start the cluster")
    start.add_argument("--workers", type=_positive, default=2, help="Ray worker nodes (2)")
    start.add_argument("--cpus", type=_positive, help="CPUs of a worker (its share of them)")
    commands.add_parser("env", help='print exports: eval "$(cluster/local env)"')
    for name, meaning in (("kill", "end a part at once"), ("start", "start a killed part again")):
        command = commands.add_parser(
            name, help=f"{meaning}: s3, postgres, mlflow, head, worker-1 ..."
        )
        command.add_argument("part")
    commands.add_parser("down", help="end what up started")
    for command in commands.choices.values():
        command.add_argument("--folder", type=Path, default=FOLDER, help="where it is remembered")
    arguments = parser.parse_args()
    try:
        cluster = Cluster(arguments.folder)
        if arguments.verb == "up":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            up(cluster, arguments.workers, arguments.cpus or max(1, cores // arguments.workers))
            print('now say: eval "$(cluster/local env)"')
        elif arguments.verb == "env":
            print(exports(cluster))
        elif arguments.verb == "kill":
            kill(cluster.part(arguments.part))
        elif arguments.verb == "start":
            start_again(cluster, arguments.part)
        else:
            was_up = cluster.is_up
            cluster.end()
            print("down; its data is gone" if was_up else "nothing is up")
    except StartError as error:
        print(f"cluster/local: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cluster/local: stopped", file=sys.stderr)
        return 130
    return 0


def _positive(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 200:
        raise argparse.ArgumentTypeError("expected 1 to 200")
    return number


if __name__ == "__main__":
    sys.exit(main())
