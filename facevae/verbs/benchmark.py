"""`benchmark`: how fast the program is on this machine or cluster."""

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from facevae import figures, pictures, runtime, storage
from facevae.benchmark import cases, report
from facevae.benchmark.bench import Bench
from facevae.benchmark.cases import Measured
from facevae.config import BenchmarkConfig, ScalingConfig
from facevae.errors import UserError
from facevae.lock import run_lock
from facevae.progress import say
from facevae.ray_job import submission_id
from facevae.tracking import start_run, store_uri
from facevae.training.resources import plan_workers
from facevae.verbs.places import check_places
from facevae.verbs.precision import choose_precision

ALONE = {
    "agreement": cases.agreement_case,
    "attributes": cases.attributes_case,
    "sharding": cases.sharding_case,
    "resume": cases.resume_case,
    "start": cases.start_case,
}
"""the cases but training, of which there is one per model and loss"""
CLAIM = "config.json"
SETTINGS_OF_CASES = {"rounds", "steps", "precision", "faces", "few_faces", "image_size"}


def benchmark(config: BenchmarkConfig) -> dict[str, float]:
    """Measure what the configuration names, or go on with it.

    Writes `result.json`, `result.md` and `rates.png`, and keeps what each case has measured in
    `measured/`, so that a benchmark which is ended goes on with the next case.

    Returns:
        The medians by name.

    Raises:
        UserError: a folder with other settings, a result to compare with that is none, or a verb
            that failed.
    """
    output = storage.absolute(config.output)
    if "://" in output:
        raise UserError(
            f"--output {output} is a URI: give a folder of this machine or of a mounted disk"
        )
    before = None if config.against is None else _result(config.against)
    storage.make_folder(output)
    with run_lock(output, "facevae benchmark", submission_id()):
        _check_claim(output, config)
        return _measure(config, output, before)


def _measure(
    config: BenchmarkConfig, output: str, before: dict[str, float] | None
) -> dict[str, float]:
    runtime.connect()
    nodes = runtime.nodes()
    check_places({"--output": output}, len(nodes))
    plan = plan_workers(ScalingConfig(), nodes)
    precision = choose_precision(
        "precision",
        config.precision,
        _claimed(output).get("precision"),
        nodes,
        use_gpu=plan.use_gpu,
        cpus=plan.cpus,
        labels=plan.worker_labels,
    )
    config = config.model_copy(update={"precision": precision})
    storage.write_json(storage.join(output, CLAIM), _claim(config))
    settings = config.model_dump(mode="json")
    with start_run(
        config.tracking, "benchmark", output, settings, submission_id=submission_id()
    ) as run:
        bench = Bench(config, Path(output), store_uri(config.tracking, output))
        measured: Measured = {}
        for name, case in _cases(bench).items():
            measured |= {f"{name}/{key}": values for key, values in _once(output, name, case)}
        result = report.figures(measured)
        text = report.table(measured, before, machine())
        picture = figures.rate_bars(report.rates(measured))
        storage.write_json(storage.join(output, "result.json"), result)
        with storage.atomic_file(storage.join(output, "result.md")) as path:
            path.write_text(text + "\n", encoding="utf-8")
        pictures.save_png(picture, storage.join(output, "rates.png"))
        run.metrics(0, result)
        run.picture("rates.png", picture)
        for name in ("result.json", "result.md"):
            run.file(Path(output) / name)
    say(text)
    say(f"benchmark: {output}/result.md, rates.png")
    return result


def _cases(bench: Bench) -> dict[str, Callable[[], Measured]]:
    config = bench.config
    chosen: dict[str, Callable[[], Measured]] = {}
    for case in config.cases:
        if case == "training":
            for model in config.models:
                for loss in config.losses:
                    name = f"training/{model}/{loss}"
                    chosen[name] = partial(cases.training_case, bench, model, loss)
        else:
            chosen[case] = partial(ALONE[case], bench)
    return chosen


def _once(output: str, name: str, case: Callable[[], Measured]) -> list[tuple[str, list[float]]]:
    """The measurements of a case, taken now or, by an earlier run, before."""
    uri = storage.join(output, "measured", f"{name.replace('/', '-')}.json")
    if storage.exists(uri):
        say(f"benchmark: {name} is measured already")
    else:
        storage.write_json(uri, case())
    return list(storage.read_json(uri).items())


def _claim(config: BenchmarkConfig) -> dict[str, Any]:
    """The settings that may not change when a benchmark goes on."""
    return config.model_dump(mode="json", include=SETTINGS_OF_CASES)


def _claimed(output: str) -> dict[str, Any]:
    """Those of a folder; empty: of a new one."""
    uri = storage.join(output, CLAIM)
    return dict(storage.read_json(uri)) if storage.exists(uri) else {}


def _check_claim(output: str, config: BenchmarkConfig) -> None:
    """Refuse a folder of other settings; precision auto is whatever it has."""
    mine = _claim(config)
    for key, value in _claimed(output).items():
        if (key, mine.get(key)) != ("precision", "auto") and mine.get(key) != value:
            raise UserError(
                f"{output} holds measurements with another {key} ({value} there, {mine.get(key)} "
                "here); choose another --output"
            )


def _result(place: str) -> dict[str, float]:
    uri = storage.absolute(place)
    uri = uri if uri.endswith(".json") else storage.join(uri, "result.json")
    if not storage.exists(uri):
        raise UserError(f"--against {place}: there is no {uri}; give a benchmark's folder")
    result = storage.read_json(uri)
    if not isinstance(result, dict) or not all(isinstance(v, float | int) for v in result.values()):
        raise UserError(f"--against {place}: {uri} is not the result.json of a benchmark")
    return {name: float(value) for name, value in result.items()}


def machine() -> list[str]:
    """What was measured on, in a few lines."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [
        f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs, {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
