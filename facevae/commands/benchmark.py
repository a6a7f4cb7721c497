"""`benchmark`: how fast the program is on this machine or cluster."""

import itertools
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from facevae.benchmark import cases, report
from facevae.benchmark.bench import Bench
from facevae.benchmark.cases import Measured
from facevae.benchmark.report import Made
from facevae.commands.choose_precision import choose_precision
from facevae.commands.estimate import Data, encode_lines, train_lines
from facevae.commands.paths import check_paths
from facevae.commands.run_step import RESULT, Metrics, Step, Work, read_result, run_step
from facevae.config import BenchmarkConfig, EncodingConfig, ModelConfig, ScalingConfig, TrainConfig
from facevae.errors import UserError
from facevae.ray_cluster.connect import connect
from facevae.ray_cluster.nodes import Node, cluster_nodes
from facevae.ray_cluster.placement import plan_workers
from facevae.report import plots
from facevae.report.grids import save_or_warn
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.tracking import Run, store_uri

ALONE = {
    "agreement": cases.agreement_case,
    "attributes": cases.attributes_case,
    "sharding": cases.sharding_case,
    "alignment": cases.alignment_case,
    "resume": cases.resume_case,
    "start": cases.start_case,
}
"""the cases but training, of which there is one per model and loss"""
SETTINGS_OF_CASES = {"rounds", "steps", "precision", "faces", "few_faces", "image_size"}
GPU_STEPS = 32
"""times as many steps where a GPU trains: few are decoded ahead, and over between two looks"""
FP32 = "fp32"
"""the end of the name of a training in fp32 beside one in bf16"""
TABLE, RATES = "result.md", "rates.png"
WRITTEN = {
    "": r"result\.(json|md)|rates\.png",
    "measured": r".*\.json",
    "settings": r"\d{3,}-.*\.yaml",
}


def benchmark(config: BenchmarkConfig) -> Metrics:
    """Measure what the configuration names, or go on with it.

    Writes `result.json`, `result.md` and `rates.png`, and keeps what each case has measured in
    `measured/`, so that a benchmark which is ended goes on with the next case.

    Returns:
        The medians by name.

    Raises:
        UserError: a folder with other settings, a result to compare with that is none, or a command
            that failed.
    """
    output = storage.absolute(config.output)
    if "://" in output:
        raise UserError(
            f"--output {output} is a URI: give a folder of this machine or of a mounted disk"
        )
    before = None if config.against is None else read_result(config.against)
    step = Step(
        command="benchmark",
        output=output,
        tracking=config.tracking,
        claim="config.json",
        identity=_identity(config),
        product=None,
        written=WRITTEN,
    )
    return run_step(step, partial(_prepare, config, output, before))


def _identity(config: BenchmarkConfig) -> dict[str, Any]:
    """The settings that may not change when it goes on, without a precision that is not chosen."""
    identity = config.model_dump(mode="json", include=SETTINGS_OF_CASES)
    if config.precision == "auto":
        del identity["precision"]
    return identity


def _prepare(
    config: BenchmarkConfig, output: str, before: Metrics | None, claimed: Mapping[str, Any]
) -> Work:
    connect()
    nodes = cluster_nodes()
    check_paths({"--output": output}, len(nodes))
    plan = plan_workers(ScalingConfig(), nodes)
    precision = choose_precision(
        "precision",
        config.precision,
        claimed.get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.worker_labels,
    )
    in_fp32_too = config.precision == "auto" and precision == "bf16"
    config = config.model_copy(update={"precision": precision})
    steps = config.steps * (GPU_STEPS if plan.use_gpu else 1)
    bench = Bench(
        config.model_copy(update={"steps": steps}), Path(output), store_uri(config.tracking, output)
    )
    measure = partial(_measure, bench, output, before, in_fp32_too, plan.use_gpu)
    return Work(config.model_dump(mode="json"), _identity(config), measure)


def _measure(
    bench: Bench,
    output: str,
    before: Metrics | None,
    in_fp32_too: bool,
    use_gpu: bool,
    run: Run,
) -> Metrics:
    measured: Measured = {}
    chosen = _cases(bench, in_fp32_too)
    for name, case in chosen.items():
        measured |= {f"{name}/{key}": values for key, values in _once(output, name, case)}
    result = report.medians(measured)
    made = {name: _made(name, bench.config.precision, use_gpu) for name in chosen}
    text = report.table(measured, before, machine(), made)
    with storage.atomic_file(storage.join(output, TABLE)) as path:
        path.write_text(text + "\n", encoding="utf-8")
    run.metrics(0, result)
    draw = partial(plots.rate_bars, report.rates(measured))
    if picture := save_or_warn(draw, storage.join(output, RATES)):
        run.picture(RATES, picture)
    run.json(RESULT, result)
    run.file(Path(output) / TABLE)
    log(text)
    log(f"benchmark: {output}/{TABLE}, {RATES}")
    return result


def _cases(bench: Bench, in_fp32_too: bool = False) -> dict[str, Callable[[], Measured]]:
    """What is measured, by name; trainings in fp32 too, where those of the benchmark are not."""
    config = bench.config
    chosen: dict[str, Callable[[], Measured]] = {}
    for case in config.cases:
        if case == "training":
            for model in config.models:
                for loss in config.losses:
                    name = f"training/{model}/{loss}"
                    chosen[name] = partial(cases.training_case, bench, model, loss)
                    if in_fp32_too:
                        case_in_fp32 = partial(cases.training_case, bench, model, loss, "fp32")
                        chosen[f"{name}/{FP32}"] = case_in_fp32
        else:
            chosen[case] = partial(ALONE[case], bench)
    return chosen


def _made(name: str, precision: str, use_gpu: bool) -> Made:
    """How a case is measured: what computes, and in which precision."""
    case = name.partition("/")[0]
    if case in ("sharding", "start"):
        return Made("", _processor())
    if case == "agreement":
        precision = "fp32, or as named"
    elif case == "alignment" or name.endswith(f"/{FP32}"):
        precision = FP32
    return Made(precision, _gpu() or "a GPU" if use_gpu else _processor())


def _once(output: str, name: str, case: Callable[[], Measured]) -> list[tuple[str, list[float]]]:
    """The measurements of a case, taken now or, by an earlier run, before."""
    uri = storage.join(output, "measured", f"{name.replace('/', '-')}.json")
    if storage.exists(uri):
        log(f"benchmark: {name} is measured already")
    else:
        storage.write_json(uri, case())
    return list(storage.read_json(uri).items())


def plan_lines(config: BenchmarkConfig, nodes: Sequence[Node]) -> list[str]:
    """What a benchmark would take of these nodes, as lines to read."""
    lines = [
        f"benchmark: {', '.join(config.cases)}, {config.rounds} rounds each, one after the other; "
        f"draws up to {config.faces + config.few_faces:,} faces first"
    ]
    trainings = (
        itertools.product(config.models, config.losses, (1, 2))
        if "training" in config.cases
        else ()
    )
    for model, loss, workers in trainings:
        training = TrainConfig(
            model={"name": model},
            loss=cases.LOSS_SETTINGS[loss],
            training={"steps": config.steps, "precision": config.precision},
            scaling={"workers": workers},
        )
        lines.append(f"training/{model}/{loss}, workers {workers}:")
        lines += train_lines(Data(cases.LOSSES[loss], None, None), training, nodes)
    if "attributes" in config.cases:
        data = Data(config.image_size, None, None)
        lines += encode_lines(data, EncodingConfig(), ModelConfig(), nodes)
    return lines


def machine() -> list[str]:
    """What was measured on, in a few lines."""
    return [
        f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs, {_gpu() or 'no GPU'}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    ]


def _gpu() -> str | None:
    """The GPU of this machine, if it has one; those of a cluster may be elsewhere."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
