"""What a cluster would take, from what a benchmark has measured: hours and dollars.

docs/scaling.md explains the model. `python -m facevae.benchmark.prediction --help`.

Legend: W workers, G images of the global batch, P bytes of gradients.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

GRADIENT_BYTES = {"dfc_vae": 9.2e6, "dfc_vae_resnet": 28.3e6, "dfc_vae_large": 20.9e6,
                  "dfc_vae_large_v2": 20.9e6}  # fmt: skip
"""4 bytes for each trained parameter at latent size 100"""


class Machine(NamedTuple):
    """Rates of one machine's parts, and what an hour of it costs."""

    trained: float
    """images per second that one worker trains, alone"""
    encoded: float
    """images per second that one encoder encodes: a GPU, or a core if `is_cpu`"""
    decoded: float
    """images per second that one core decodes"""
    cores: int
    """cores beside each worker or encoder that may decode"""
    dollars: float
    """an hour of a worker with its cores"""
    is_cpu: bool = False
    """whether its cores encode too, as there is no GPU"""
    launches: float = 0.0
    """seconds that the host takes to launch the kernels of a step, however few its images are"""


class Network(NamedTuple):
    """Between machines, and to the object store, in bytes per second for each machine."""

    between: float
    store: float


class Prediction(NamedTuple):
    """How long a job runs, what it costs, and what it waits for."""

    images_per_second: float
    hours: float
    dollars: float
    limit: str


def training(
    machine: Machine,
    network: Network,
    workers: int,
    images: float,
    batch: int,
    gradient_bytes: float,
    bytes_per_image: float,
    start_seconds: float,
) -> Prediction:
    """Training on W workers: a step is its slowest part, and the sum of gradients after it.

    step = max(G/W / trained, launches, G/W / (cores * decoded), G * bytes / store)
         + 2 (W-1)/W * P / between

    Each worker reads all windows, whose rows are mixed, and decodes its own. The sum of gradients
    counts in full, though most of it hides behind the backward pass: this errs on the slow side.
    """
    share = batch / workers
    parts = {
        "workers": share / machine.trained,
        "launches": machine.launches,
        "decoding": share / (machine.cores * machine.decoded),
        "object store": batch * bytes_per_image / network.store,
    }
    reduce = 2 * (workers - 1) / workers * gradient_bytes / network.between
    limit = max(parts, key=lambda name: parts[name])
    step = parts[limit] + reduce
    limit = limit if reduce < parts[limit] else "sum of gradients"
    return _prediction(batch / step, images, start_seconds, machine.dollars * workers, limit)


def attributes(
    machine: Machine,
    network: Network,
    encoders: int,
    images: float,
    bytes_per_image: float,
    start_seconds: float,
) -> Prediction:
    """The attribute pass on W encoders: the slowest of encoding, decoding and the store.

    Encoders share nothing but the store, so that W of them are W times as fast. On CPU each core
    does both, one after the other.
    """
    if machine.is_cpu:
        seconds = 1 / machine.encoded + 1 / machine.decoded
        rates = {"cores": encoders * machine.cores / seconds}
    else:
        rates = {
            "encoders": encoders * machine.encoded,
            "decoding": encoders * machine.cores * machine.decoded,
        }
    rates["object store"] = encoders * network.store / bytes_per_image
    limit = min(rates, key=lambda name: rates[name])
    return _prediction(rates[limit], images, start_seconds, machine.dollars * encoders, limit)


def _prediction(
    rate: float, images: float, start_seconds: float, dollars_an_hour: float, limit: str
) -> Prediction:
    hours = (images / rate + start_seconds) / 3600
    return Prediction(rate, hours, hours * dollars_an_hour, limit)


def two_workers_over_one(gradient_bytes: float, rate: float, batch: int, between: float) -> float:
    """What two workers of half a machine each should reach, of one worker of all of it."""
    step = batch / rate
    return step / (step + gradient_bytes / between)


def main(arguments: list[str] | None = None) -> int:
    """Print predictions for numbers of workers; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        measured = json.loads(Path(options.result).read_text())
        encoding_cores = options.measured_cores if options.cpu else 1
        machine = Machine(
            trained=options.trained or measured[f"training/{options.case}/ours"],
            encoded=options.encoded or measured["attributes/encoding"] / encoding_cores,
            decoded=options.decoded or measured["attributes/decoding"] / options.measured_cores,
            cores=options.cores,
            dollars=options.dollars,
            is_cpu=options.cpu,
            launches=options.launches,
        )
        start = measured[f"training/{options.case}/seconds_to_first_step"]
        gradients = GRADIENT_BYTES[options.case.partition("/")[0]]
    except KeyError as error:
        print(f"{options.result} has no {error}: run that case of the benchmark", file=sys.stderr)
        return 2
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        print(f"{options.result} is no result.json of a benchmark ({reason})", file=sys.stderr)
        return 2
    network = Network(options.between, options.store)
    print("| workers | job | images/s | hours | dollars | waits for |")
    print("| ---: | --- | ---: | ---: | ---: | --- |")
    for workers in options.workers:
        jobs = {
            f"{options.steps:,} steps": training(
                machine, network, workers, options.steps * options.batch, options.batch,
                gradients, options.bytes_per_image, start,
            ),
            f"attributes of {options.images:,}": attributes(
                machine, network, workers, options.images, options.bytes_per_image, start
            ),
        }  # fmt: skip
        for job, each in jobs.items():
            print(
                f"| {workers} | {job} | {each.images_per_second:,.0f} | {each.hours:,.2f} "
                f"| {each.dollars:,.2f} | {each.limit} |"
            )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facevae.benchmark.prediction",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description=(__doc__ or "").splitlines()[0],
    )
    add = parser.add_argument
    add("result", help="result.json of a benchmark on one machine of the cluster")
    add("--case", default="dfc_vae/facenet", help="measured training: MODEL/LOSS")
    add("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of workers")
    add("--steps", type=int, default=50_000, help="steps of training")
    add("--batch", type=int, default=128, help="images of a step over all workers")
    add("--images", type=int, default=202_599, help="images of the attribute pass")
    add("--cores", type=int, default=1, help="cores of each worker that may decode")
    add("--measured_cores", type=int, default=2, help="cores of the machine that was measured")
    add("--cpu", action="store_true", help="no GPUs, here and there: the cores encode too")
    add("--dollars", type=float, default=0.0, help="price of an hour of a worker with its cores")
    add(
        "--launches",
        type=float,
        default=0.0,
        help="seconds of a GPU's step, however few its images: see `make gpu-check`",
    )
    add("--between", type=float, default=1.25e9, help="bytes per second between machines")
    add("--store", type=float, default=5e8, help="bytes per second from the object store")
    add("--bytes_per_image", type=float, default=10_100, help="stored size of an image")
    add("--trained", type=float, help="images per second of one worker, instead of the measured")
    add(
        "--encoded",
        type=float,
        help="images per second of one encoder (with --cpu of one core), instead of the measured",
    )
    add("--decoded", type=float, help="images per second of one core, instead of the measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
