"""A table of what this machine's GPU does for facevae, in under five minutes (`make gpu-check`).

It needs PyTorch; each part needs what it imports besides, says so where that is missing, and leaves
the others alone. `python -m facevae.benchmark.gpu_check --help`.
"""

import argparse
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

SECONDS = 300.0
TINY: dict[str, Any] = {"batches": (2,), "steps": 1, "encoder_batch": 2}
TINY_TRAINING: dict[str, Any] = {"faces": 128, "steps": 64, "batch": 32}
"""sizes with which the check itself is tried on a CPU"""


class Row(NamedTuple):
    """A line of the table: what, how much (or why that is not known), and its unit."""

    what: str
    value: float | str
    unit: str = ""


Part = Callable[[], Iterator[Row]]


def machine_rows(device: torch.device) -> Iterator[Row]:
    """What the device is, and which precisions it has."""
    yield Row("PyTorch", torch.__version__)
    yield Row("CPUs", str(len(os.sched_getaffinity(0))))
    if device.type != "cuda":
        yield Row("device", f"CPU, {platform.machine()}")
        return
    found = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    yield Row("device", f"{found.name}, compute capability {found.major}.{found.minor}")
    yield Row("memory", total / 2**20, "MiB")
    yield Row("memory, free", free / 2**20, "MiB")
    yield Row("driver", _driver())
    yield Row("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    yield Row("kernels of PyTorch", ", ".join(torch.cuda.get_arch_list()))
    yield Row("bf16", "native" if found.major >= 8 else "emulated and slow: train in fp32")
    yield Row("convolutions in fp32", "TF32" if torch.backends.cudnn.allow_tf32 else "IEEE")


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    words = version.read_text().split() if version.exists() else []
    return next((word for word in words if re.fullmatch(r"\d+(\.\d+)+", word)), "not told")


def parts(device: torch.device, folder: Path) -> dict[str, Part]:
    """What is measured, by name. A part imports what it needs when its turn comes."""
    is_tiny = device.type == "cpu"

    def of_a_step(name: str) -> Part:
        def rows() -> Iterator[Row]:
            from facevae.benchmark import gpu_step

            sizes = gpu_step.Sizes(**TINY) if is_tiny else gpu_step.Sizes()
            yield from getattr(gpu_step, name)(device, sizes, folder)

        return rows

    def pipeline() -> Iterator[Row]:
        from facevae.benchmark import gpu_pipeline

        training = gpu_pipeline.Training(**TINY_TRAINING) if is_tiny else gpu_pipeline.Training()
        yield from gpu_pipeline.pipeline_rows(training, folder, use_gpu=not is_tiny)

    return {
        "machine": partial(machine_rows, device),
        "step": of_a_step("step_rows"),
        "encoder": of_a_step("encoder_rows"),
        "agreement": of_a_step("agreement_rows"),
        "pipeline": pipeline,
    }


def check(
    chosen: Mapping[str, Part], seconds: float = SECONDS
) -> tuple[list[tuple[str, str, str, str]], bool]:
    """The rows of a table, and whether no part failed; printed as they come.

    Args:
        chosen: parts by name.
        seconds: after which no other part begins.
    """
    table, is_good, began = [], True, time.monotonic()

    def add(part: str, what: str, value: float | str, unit: str = "") -> None:
        text = value if isinstance(value, str) else f"{value:,.4g}"
        table.append((part, what, text, unit))
        print(f"{part}: {what}: {text} {unit}".rstrip(), file=sys.stderr, flush=True)

    for name, rows in chosen.items():
        if time.monotonic() - began > seconds:
            add(name, "left out", f"{seconds:g} seconds have passed: give --only {name}")
            continue
        try:
            for row in rows():
                add(name, *row)
        except ImportError as error:
            add(name, "left out", f"it needs a package that is not here ({error})")
        except Exception as error:  # noqa: BLE001  # the other parts go on
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            add(name, "failed", reason[:300])
            is_good = False
    return table, is_good


def as_markdown(table: list[tuple[str, str, str, str]]) -> str:
    """The rows as a Markdown table."""
    rows = [("part", "what", "value", "unit"), ("---", "---", "---:", "---"), *table]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit code: 2 without a GPU, 1 if a part failed."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu-check: PyTorch finds no GPU here: look at nvidia-smi and the driver, or give "
            "--device cpu to try the check itself",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="facevae-gpu-check-") as folder:
        every = parts(device, Path(folder))
        chosen = {name: every[name] for name in options.only or every}
        table, is_good = check(chosen, options.seconds)
    print(as_markdown(table))
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facevae.benchmark.gpu_check",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description=(__doc__ or "").splitlines()[0],
    )
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny sizes, to try it")
    names = list(parts(torch.device("cpu"), Path()))
    add("--only", nargs="+", choices=names, help="these parts alone")
    add("--seconds", type=float, default=SECONDS, help="after these no other part begins")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.exit(main())
