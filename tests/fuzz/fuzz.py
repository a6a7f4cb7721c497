"""Fuzz every reader: `python tests/fuzz/fuzz.py [--inputs N] [--seed S] [--reader NAME]`.

The law: a damaged file is refused with one line (UserError, BadImageError), or read as what is
right; nothing else, no crash of a C library, in bounded time and memory. Inputs are run in a child
process under a memory limit; what it was at when it died is known, and the next child goes on.

`--reader NAME --seed S --inputs 1` runs one input again.
"""

import argparse
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HANG_SECONDS = 5.0
MEMORY_BYTES = 2 << 30
"""what reading may take beyond what the libraries do"""
PATIENCE_SECONDS = 20.0
"""after which a child that says nothing is ended; this machine may be busy"""


class Finding(NamedTuple):
    """An input that broke the law."""

    reader: str
    seed: int
    what: str


class Total:
    """What became of a reader's inputs."""

    def __init__(self) -> None:
        self.inputs = self.refused = self.read = 0
        self.slowest = self.peak = 0.0


# --- the child -----------------------------------------------------------------------------------


def child(work: list[tuple[str, int, int]]) -> None:
    """Run inputs, each told on stdout before and after; ends with the process."""
    from readers import readers

    from facevae.data.images import BadImageError
    from facevae.errors import UserError

    with tempfile.TemporaryDirectory() as folder:
        by_name = {reader.name: reader for reader in readers(Path(folder))}
        limit = _data_bytes() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        for name, first, stop in work:
            reader = by_name[name]
            for seed in range(first, stop):
                print(json.dumps([name, seed]), flush=True)
                is_whole = seed < 0  # the files themselves, some of which are hostile
                data = reader.corpus[seed] if is_whole else _mutated(reader, seed)
                _forget_peak()
                before, started = _memory("VmRSS"), time.process_time()
                outcome = _told(reader.read, data, (UserError, BadImageError))
                seconds = time.process_time() - started
                memory = max(_memory("VmHWM") - before, 0)
                print(json.dumps([name, seed, outcome, seconds, memory]), flush=True)


def _mutated(reader, seed: int) -> bytes:
    from mutations import mutate

    return mutate(seed, reader.corpus, reader.is_text)


def _told(read, data: bytes, allowed) -> str:
    try:
        read(data)
    except allowed as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"several lines: {error}"
    except AssertionError:
        return f"wrong result: {_last_line()}"
    except BaseException as error:  # noqa: BLE001  # whatever it is, it breaks the law
        return f"{type(error).__name__}: {str(error)[:150]} ({_last_line()})"
    return "read"


def _last_line() -> str:
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "/facevae/" in frame.filename or "/fuzz/" in frame.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def _memory(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def _data_bytes() -> int:
    return _memory("VmData")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# --- the parent ----------------------------------------------------------------------------------


def plan(inputs: int, seed: int, only: str | None) -> list[tuple[str, int, int]]:
    """How many inputs each reader gets, as (name, first seed, end)."""
    from readers import readers

    with tempfile.TemporaryDirectory() as folder:
        chosen = [each for each in readers(Path(folder)) if only in (None, each.name)]
    whole = sum(each.share for each in chosen)
    return [
        (
            each.name,
            seed if seed else -len(each.corpus),
            seed + max(1, round(inputs * each.share / whole)),
        )
        for each in chosen
    ]


def fuzz(work: list[tuple[str, int, int]]) -> tuple[dict[str, Total], list[Finding]]:
    """Run all inputs, in as many children as it takes."""
    totals = {name: Total() for name, _, _ in work}
    findings: list[Finding] = []
    while work:
        at, what = _run_child(work, totals, findings)
        if at is None:
            break
        name, seed = at
        findings.append(Finding(name, seed, what))
        print(f"a child ended: {findings[-1]}", file=sys.stderr, flush=True)
        index = [each[0] for each in work].index(name)
        work = [(name, seed + 1, work[index][2]), *work[index + 1 :]]
    return totals, findings


def _run_child(
    work: list[tuple[str, int, int]], totals: dict[str, Total], findings: list[Finding]
) -> tuple[tuple[str, int] | None, str]:
    """Returns the input at which a child died, and of what; none: it did all."""
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", json.dumps(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    at: tuple[str, int] | None = None
    try:
        while True:
            try:
                line = lines.get(timeout=PATIENCE_SECONDS * (1 if at else 6))
            except queue.Empty:
                return at, "hangs"
            if line is None:
                break
            name, seed, *rest = json.loads(line)
            at = (name, seed)
            if rest:
                _count(totals[name], Finding(name, seed, rest[0]), rest[1], rest[2], findings)
                at = None
        code = process.wait()
        if code == 0:
            return None, ""
        assert at is not None, f"the child ended with {code} before its first input"
        return at, f"the process ended with {code}"
    finally:
        process.kill()
        process.wait()


def _pump(stream: Iterable[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _count(
    total: Total, outcome: Finding, seconds: float, memory: float, findings: list[Finding]
) -> None:
    total.inputs += 1
    total.refused += outcome.what == "refused"
    total.read += outcome.what == "read"
    total.slowest = max(total.slowest, seconds)
    total.peak = max(total.peak, memory)
    if outcome.what not in ("refused", "read"):
        findings.append(outcome)
    elif seconds > HANG_SECONDS:
        findings.append(outcome._replace(what=f"took {seconds:.1f} s"))


def table(totals: dict[str, Total]) -> str:
    """The totals for people."""
    lines = [f"{'reader':<34}{'inputs':>8}{'refused':>9}{'read':>8}{'slowest s':>11}{'peak MB':>9}"]
    for name, total in totals.items():
        lines.append(
            f"{name:<34}{total.inputs:>8}{total.refused:>9}{total.read:>8}"
            f"{total.slowest:>11.3f}{total.peak / 1e6:>9.1f}"
        )
    every = totals.values()
    lines.append(
        f"{'all':<34}{sum(t.inputs for t in every):>8}{sum(t.refused for t in every):>9}"
        f"{sum(t.read for t in every):>8}{max(t.slowest for t in every):>11.3f}"
        f"{max(t.peak for t in every) / 1e6:>9.1f}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return 0
    started = time.monotonic()
    totals, findings = fuzz(plan(options.inputs, options.seed, options.reader))
    print(table(totals))
    for name, seed, what in findings[:200]:
        print(f"BROKEN  {name}, seed {seed}: {what}")
    print(f"{len(findings)} broke the law; {time.monotonic() - started:.0f} s")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
