"""Chaos: `python -m tests.chaos.chaos [--schedules N] [--seed S]`.

The law: whatever dies, stands still or is full while faces become shards, a model and attribute
vectors, the same commands given again leave what a quiet run leaves, bit for bit; each image and
each logged step is there once.

A rehearsal cluster is started on this machine, and the pipeline run once in quiet; then once for
each seed, with the faults of that seed's schedule. `--seed S --schedules 1` runs one again.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from processes import StartError

from tests.chaos.checks import broken_laws, completed
from tests.chaos.cluster import ChaosCluster
from tests.chaos.collect import Store
from tests.chaos.faults import Injector
from tests.chaos.pipeline import QUIET, BrokenError, Pipeline, driver_environment
from tests.chaos.schedule import COMMANDS, KINDS, schedule, struck


class Row(NamedTuple):
    """How a schedule went."""

    seed: int
    faults: list[str]
    """the kinds that were injected"""
    missed: list[str]
    """the kinds that found no place"""
    restarts: int
    seconds: float
    broken: list[str]


class Chaos:
    """Runs schedules on one cluster."""

    def __init__(self, cluster: ChaosCluster, logs: Path) -> None:
        """Run the pipeline in quiet; the logs of its drivers go to a folder, which is made."""
        logs.mkdir()
        environment, self._disk = cluster.cluster.environment, cluster.disk
        os.environ.update({k: v for k, v in environment.items() if k.startswith("MLFLOW_")})
        self._injector = Injector(cluster.cluster, cluster.proxy, self._disk, say)
        drivers = driver_environment(environment, cluster.gcs)
        self._pipeline = Pipeline(drivers, self._injector, logs, say)
        self._store = Store(cluster.s3, environment)
        self.left_out = {"disk": self._disk.reason} if self._disk.reason else {}
        say("quiet")
        self._pipeline.run(QUIET, [])
        self._quiet = self._store.outcome(QUIET)
        for line in self._injector.too_few() + broken_laws(self._quiet, self._quiet):
            raise BrokenError(f"{QUIET}: {line}")

    def run(self, seed: int, is_brief: bool = False) -> Row:
        """Run the schedule of a seed; in brief, the commands that it strikes."""
        faults = [fault for fault in schedule(seed) if fault.kind not in self.left_out]
        root, started, attempts = f"seed-{seed}", time.monotonic(), []
        commands = struck(faults) if is_brief and faults else COMMANDS
        say(f"seed {seed}: {len(faults)} faults")
        try:
            attempts = self._pipeline.run(root, faults, commands)
            found = completed(self._store.outcome(root), self._quiet, commands)
            broken = self._injector.unhealed + broken_laws(found, self._quiet)
        except BrokenError as error:
            broken = [str(error)]
        row = Row(
            seed,
            [each.fault.kind for each in self._injector.fired],
            [fault.kind for fault in self._injector.waiting],
            max(0, len(attempts) - len(commands)),
            time.monotonic() - started,
            broken,
        )
        self._disk.clean()
        if not broken:
            self._store.remove(root)
        for line in broken:
            say(f"  BROKEN  {line}")
        return row


def say(line: str) -> None:
    """A line, with the second it was said in."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def table(rows: list[Row], left_out: dict[str, str]) -> str:
    """The schedules, and the totals by kind, for people."""
    lines = [f"{'seed':>6}  {'survived':<9}{'restarts':>9}{'seconds':>9}  faults"]
    for row in rows:
        missed = f" (found no place: {', '.join(row.missed)})" if row.missed else ""
        lines.append(
            f"{row.seed:>6}  {'NO' if row.broken else 'yes':<9}{row.restarts:>9}"
            f"{row.seconds:>9.0f}  {', '.join(row.faults)}{missed}"
        )
    lines.append(f"\n{'kind':<12}{'injected':>9}{'survived':>9}")
    injected = Counter(kind for row in rows for kind in row.faults)
    survived = Counter(kind for row in rows if not row.broken for kind in row.faults)
    for kind, meaning in KINDS.items():
        why = f"; left out: {left_out[kind]}" if kind in left_out else ""
        lines.append(f"{kind:<12}{injected[kind]:>9}{survived[kind]:>9}  {meaning}{why}")
    restarts, seconds = sum(row.restarts for row in rows), sum(row.seconds for row in rows)
    lines.append(f"{'all':<12}{injected.total():>9}{survived.total():>9}")
    broken = sum(bool(row.broken) for row in rows)
    lines.append(
        f"{len(rows)} schedules, {broken} broken; {restarts} restarts of a driver; {seconds:.0f} s"
    )
    return "\n".join(lines)


def main() -> int:
    """Run schedules; 0 if all were survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument(
        "--brief", action="store_true", help="run only the commands that are struck"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is ended
    folder = Path(tempfile.mkdtemp(prefix="facevae-chaos-"))
    cluster, rows = None, []
    try:
        cluster = ChaosCluster(folder)
        chaos = Chaos(cluster, folder / "logs")
        for seed in range(options.seed, options.seed + options.schedules):
            rows.append(chaos.run(seed, options.brief))
    except (StartError, BrokenError) as error:
        print(f"chaos: {error}", file=sys.stderr)
    finally:
        if rows:
            print(table(rows, chaos.left_out), flush=True)
        is_good = len(rows) == options.schedules and not any(row.broken for row in rows)
        if cluster is not None:
            if not is_good:
                kept = cluster.cluster.keep_logs()
                print(f"the logs of drivers are in {folder}/logs, of the cluster in {kept}")
            cluster.end()
        if is_good:
            shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
