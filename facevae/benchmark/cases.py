"""What is measured: the program beside the same work without Ray, and beside bare computing.

A case returns measurements by name, one value per round, or one in all. Rates are in images per
second, but for the matrix peak; ratios are of values of the same round.
"""

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from facevae.attributes.encode import plan_encoders
from facevae.attributes.hdf5 import VECTORS
from facevae.benchmark import agreement, alignment_rate, encoding_rate, shard_rate, step_rate
from facevae.benchmark.agreement import Vectors
from facevae.benchmark.alignment_rate import Photographs, write_photographs
from facevae.benchmark.bench import Bench
from facevae.benchmark.encoding_rate import Images
from facevae.benchmark.face_network import WIKI_LAYERS
from facevae.benchmark.resume import (
    Trainings,
    seconds_a_step,
    seconds_after_a_lost_worker,
    seconds_after_a_new_command,
)
from facevae.benchmark.samples import in_turn, ratios
from facevae.benchmark.shard_rate import Faces
from facevae.benchmark.step_rate import Steps
from facevae.benchmark.tasks import in_fresh_process
from facevae.benchmark.watched_command import Watched, run_command
from facevae.config import (
    AlignConfig,
    Arithmetic,
    AttributesConfig,
    EditConfig,
    EncodingConfig,
    ModelName,
    PartsConfig,
    ScalingConfig,
    TrainConfig,
)
from facevae.data.detector_actors import plan_detectors
from facevae.data.shard_files import read_manifest
from facevae.errors import TooSmallError, UserError
from facevae.ray_cluster.nodes import cluster_nodes
from facevae.ray_cluster.placement import WorkerPlan, plan_workers
from facevae.runs import storage
from facevae.runs.progress import log
from facevae.training.checkpoint_manager import CheckpointManager

Measured = dict[str, list[float]]
LOSSES = {"facenet": 160, "onet": 64}
"""the perceptual losses that are measured, and the size of the images that their networks see"""
LOSS_SETTINGS: dict[str, dict[str, object]] = {
    "facenet": {"network": "inception_resnet_v1", "layers": WIKI_LAYERS},
    "onet": {},
}
UNUSED = "unused"
"""the output folder of what is not run by itself"""
ROWS_LEFT_OUT = 2
"""how many of a training's first logged rates do not count"""
TRAINING_FACES, SHARDING_FACES = 4_000, 4_000
ALIGNED_PHOTOGRAPHS = (24, 96)
LOOPED_PHOTOGRAPHS = 12
"""photographs that the plain loop searches"""
BARE_SHARDS = 32
"""shards of the attribute pass that the bare loop takes"""


def training_case(
    bench: Bench, model: ModelName, loss: str, precision: Arithmetic | None = None
) -> Measured:
    """Training of a model: unoptimised, its ceiling, a bare loop, and Ray with 1 and 2 workers.

    The unoptimised step is in fp32 always. Without a precision it is that of the benchmark. Two
    workers are left out where they would train on other processors than one.
    """
    shards = bench.shards(TRAINING_FACES, LOSSES[loss])
    settings: dict[str, Any] = {"model": {"name": model}, "loss": _loss(bench, loss)}
    if precision is not None:
        settings["training"] = {"precision": precision}
    config = bench.train_config(shards, bench.fresh("train"), **settings)
    plan = plan_workers(config.scaling, cluster_nodes())
    has_two = _fits_twice(plan)
    steps = Steps(config, shards, plan.threads, max(4, bench.config.steps // 4))
    ours: dict[int, list[tuple[TrainConfig, Watched]]] = {1: [], 2: []}

    def through_ray(workers: int) -> float:
        mine = bench.train_config(
            shards, bench.fresh("train"), scaling={"workers": workers}, **settings
        )
        ours[workers].append((mine, bench.run("train", mine)))
        return statistics.median(logged(mine, "train/images_per_second"))

    gpus = plan.resources().get("GPU", 0.0)

    def alone(function: Callable[[Steps], float]) -> Callable[[], float]:
        return in_fresh_process(function, steps, plan.cpus, gpus, plan.worker_labels)

    measures: dict[str, Callable[[], float]] = {
        "matrix_peak": alone(step_rate.matrix_peak),
        "unoptimised": alone(step_rate.unoptimised),
        "ceiling": alone(step_rate.ceiling),
        "bare_loop": alone(step_rate.bare_loop),
        "ours": partial(through_ray, 1),
    }
    if has_two:
        measures["ours_two_workers"] = partial(through_ray, 2)
    else:
        log("benchmark: two workers are left out: this cluster has no room for them, or one GPU")
    rates = in_turn(measures, bench.config.rounds, log)
    watched = [each for _, each in ours[1]]
    operations = alone(step_rate.operations_per_image)()
    at_peak = [peak / operations for peak in rates["matrix_peak"]]
    return {
        **rates,
        "operations_per_image": [operations],
        "mfu": ratios(rates["ours"], at_peak),
        "times_unoptimised_at_matrix_peak": ratios(at_peak, rates["unoptimised"]),
        "times_unoptimised": ratios(rates["ours"], rates["unoptimised"]),
        "share_of_ceiling": ratios(rates["ours"], rates["ceiling"]),
        "share_of_bare_loop": ratios(rates["ours"], rates["bare_loop"]),
        **(_of_two_workers(rates) if has_two else {}),
        "waiting_for_data": [
            statistics.median(logged(mine, "train/waiting_for_data")) for mine, _ in ours[1]
        ],
        "seconds_to_first_step": [
            _start(each, "train", config.training.global_batch_size / rate)
            for each, rate in zip(watched, rates["ours"], strict=True)
        ],
        **_use(watched, config.training.steps * config.training.global_batch_size),
    }


def _fits_twice(plan: WorkerPlan) -> bool:
    """Whether two workers have room, on GPUs if one worker is on a GPU."""
    try:
        return plan_workers(ScalingConfig(workers=2), cluster_nodes()).use_gpu == plan.use_gpu
    except TooSmallError:
        return False


def _of_two_workers(rates: Measured) -> Measured:
    return {
        "two_workers_over_one": ratios(rates["ours_two_workers"], rates["ours"]),
        "two_workers_share_of_ceiling": ratios(rates["ours_two_workers"], rates["ceiling"]),
    }


def attributes_case(bench: Bench) -> Measured:
    """The attribute pass over many images and over few, beside decoding, encoding and threads."""
    many, few = bench.config.faces, bench.config.few_faces
    shards = {faces: bench.shards(faces, bench.config.image_size) for faces in (many, few)}
    model = _trained(bench)
    settings = EncodingConfig(precision="bf16" if bench.config.precision == "bf16" else "fp32")
    plan = plan_encoders(settings, cluster_nodes())
    cpus = _cpus()
    names = [shard.name for shard in read_manifest(shards[many]).shards[:BARE_SHARDS]]
    images = Images(shards[many], names, str(Path(model) / "model"), settings, cpus, plan.use_gpu)
    passes: dict[int, list[Watched]] = {many: [], few: []}

    def through_ray(faces: int) -> float:
        config = AttributesConfig(
            output=bench.fresh("attributes"),
            shards=shards[faces],
            model=model,
            encoding=settings,
            tracking=bench.tracking,
        )
        passes[faces].append(bench.run("attributes", config))
        return _steady_rate(passes[faces][-1], "encode", plan.actors)

    def alone(function: Callable[[Images], float]) -> Callable[[], float]:
        return in_fresh_process(function, images, cpus, float(plan.use_gpu))

    measures: dict[str, Callable[[], float]] = {
        "decoding": alone(encoding_rate.decoding),
        "encoding": alone(encoding_rate.encoding),
        "bare_loop": alone(encoding_rate.bare_loop),
        "ours": partial(through_ray, many),
        "ours_few": partial(through_ray, few),
    }
    rates = in_turn(measures, bench.config.rounds, log)
    ceiling = [min(both) for both in zip(rates["decoding"], rates["encoding"], strict=True)]
    seconds = {
        faces: list(map(_without_start, passes[faces], rates[name]))
        for faces, name in ((many, "ours"), (few, "ours_few"))
    }
    return {
        **rates,
        "ceiling": ceiling,
        "share_of_bare_loop": ratios(rates["ours"], rates["bare_loop"]),
        "share_of_ceiling": ratios(rates["ours"], ceiling),
        "seconds_of_many": seconds[many],
        "seconds_of_few": seconds[few],
        "growth": ratios(seconds[many], seconds[few]),
        "seconds_to_first_shard": [each.of("encode")[0].seconds for each in passes[many]],
        "seconds_with_start_and_end": [each.seconds for each in passes[many]],
        **_use(passes[many], many),
    }


def agreement_case(bench: Bench) -> Measured:
    """How far what is fast is from what is plain; a round of training has a seed of its own.

    Trainings in bf16 and fp32 are compared where the benchmark's are in bf16.
    """
    shards = bench.shards(TRAINING_FACES, LOSSES["facenet"])
    plan = plan_workers(bench.train_config(shards, UNUSED).scaling, cluster_nodes())
    gpus = plan.resources().get("GPU", 0.0)

    def of_seeds(function: Callable[[Steps], float], precision: str) -> Callable[[], float]:
        seeds = count()

        def measure() -> float:
            settings = {"seed": next(seeds), "precision": precision, "horizontal_flip": False}
            config = bench.train_config(
                shards, UNUSED, training=settings, loss=_loss(bench, "facenet")
            )
            steps = Steps(config, shards, plan.threads, bench.config.steps)
            return in_fresh_process(function, steps, plan.cpus, gpus, plan.worker_labels)()

        return measure

    measures = {
        "loss_difference": of_seeds(agreement.loss_difference, "fp32"),
        "gradient_difference": of_seeds(agreement.gradient_difference, "fp32"),
        "last_loss_fp32": of_seeds(agreement.last_loss, "fp32"),
    }
    if bench.config.precision == "bf16":  # emulated it would take hours, and nobody trains so
        measures["last_loss_bf16"] = of_seeds(agreement.last_loss, "bf16")
    found = in_turn(measures, bench.config.rounds, log)
    full, half = found["last_loss_fp32"], found.get("last_loss_bf16")
    differences = [] if half is None else [abs(ratio - 1) for ratio in ratios(half, full)]
    return {
        **found,
        **({"bf16_difference": differences} if differences else {}),
        "spread_of_seeds": [(max(full) - min(full)) / statistics.mean(full)],
        "vector_difference": [_vector_difference(bench)],
    }


def _vector_difference(bench: Bench) -> float:
    model = _trained(bench)
    done = Vectors(_vectors(bench, model), _few_shards(bench), str(Path(model) / "model"))
    return in_fresh_process(agreement.vector_difference, done, _cpus())()


def sharding_case(bench: Bench) -> Measured:
    """Synthetic faces to shards: bare drawing and storing, a process per core, and Ray."""
    plan = {"images_per_shard": 128}  # so that there are many tasks
    size, cpus = bench.config.image_size, _cpus()
    faces = Faces(bench.shards_config(UNUSED, SHARDING_FACES, size, **plan), cpus)
    watched: list[Watched] = []

    def through_ray() -> float:
        config = bench.shards_config(bench.fresh("shards"), SHARDING_FACES, size, **plan)
        watched.append(bench.run("shards", config))
        return _steady_rate(watched[-1], "shards", cpus)

    measures: dict[str, Callable[[], float]] = {
        "ceiling": in_fresh_process(shard_rate.ceiling, faces, cpus),
        "bare_loop": in_fresh_process(shard_rate.bare_loop, faces, cpus),
        "ours": through_ray,
    }
    rates = in_turn(measures, bench.config.rounds, log)
    return {
        **rates,
        "share_of_ceiling": ratios(rates["ours"], rates["ceiling"]),
        "share_of_bare_loop": ratios(rates["ours"], rates["bare_loop"]),
        "seconds_to_first_shard": [each.of("shards")[0].seconds for each in watched],
        **_use(watched, SHARDING_FACES),
    }


def alignment_case(bench: Bench) -> Measured:
    """Faces in photographs of 12 megapixels: a loop of `MTCNN.detect`, and Ray; few and many."""
    few, many = ALIGNED_PHOTOGRAPHS
    plan, cpus = plan_detectors(PartsConfig(), cluster_nodes()), _cpus()
    folders = {each: bench.folder / "photographs" / str(each) for each in (few, many)}
    for each, folder in folders.items():
        write_photographs(folder, each)
    watched: dict[int, list[Watched]] = {few: [], many: []}

    def through_ray(photographs: int) -> float:
        config = AlignConfig(
            output=bench.fresh("align"),
            images=str(folders[photographs]),
            parts={"images": 4},
            tracking=bench.tracking,
        )
        watched[photographs].append(bench.run("align", config))
        return _steady_rate(watched[photographs][-1], "align", plan.actors.actors)

    some = Photographs(str(folders[few]), min(few, LOOPED_PHOTOGRAPHS), cpus)
    gpus = float(plan.actors.use_gpu)
    rates = in_turn(
        {
            "bare_loop": in_fresh_process(alignment_rate.plain_loop, some, cpus, gpus),
            "ours_few": partial(through_ray, few),
            "ours": partial(through_ray, many),
        },
        bench.config.rounds,
        log,
    )
    of_few, of_many = _use(watched[few], few), _use(watched[many], many)
    grown = ratios(of_many["worker_megabytes"], of_few["worker_megabytes"])
    return {
        **rates,
        "times_bare_loop": ratios(rates["ours"], rates["bare_loop"]),
        "memory_of_many_over_few": grown,
        **of_many,
    }


def resume_case(bench: Bench) -> Measured:
    """What checkpoints cost, and how soon training goes on after a worker or its driver died."""
    trainings = Trainings(bench, _few_shards(bench), _loss(bench, "onet"))
    steps, every = bench.config.steps, max(1, bench.config.steps // 10)
    rounds = in_turn(
        {
            "seconds_of_a_step": partial(seconds_a_step, trainings, steps),
            "seconds_of_a_step_with_checkpoints": partial(seconds_a_step, trainings, every),
            "seconds_from_lost_worker_to_next_step": partial(
                seconds_after_a_lost_worker, trainings, every
            ),
            "seconds_from_new_command_to_next_step": partial(
                seconds_after_a_new_command, trainings
            ),
        },
        bench.config.rounds,
        log,
    )
    plain, kept = rounds["seconds_of_a_step"], rounds["seconds_of_a_step_with_checkpoints"]
    between = (steps - 1) / ((steps - 1) // every)  # steps, on average, from one to the next
    of_one = [(slow - fast) * between for slow, fast in zip(kept, plain, strict=True)]
    usual = TrainConfig().training.checkpoint_every
    overhead = [one / (usual * fast) for one, fast in zip(of_one, plain, strict=True)]
    return {**rounds, "seconds_of_a_checkpoint": of_one, "checkpoint_overhead": overhead}


def start_case(bench: Bench) -> Measured:
    """Seconds from a command to its end, where the start is nearly all of it."""
    model = _trained(bench)
    vectors = _vectors(bench, model)

    def edit() -> float:
        config = EditConfig(
            output=bench.fresh("edit"),
            model=model,
            vectors=vectors,
            editing={"faces": 1},
            tracking=bench.tracking,
        )
        return bench.run("edit", config).seconds

    measures: dict[str, Callable[[], float]] = {
        "seconds_of_help": lambda: run_command(["--help"]).seconds,
        "seconds_of_edit": edit,
    }
    return in_turn(measures, bench.config.rounds, log)


def _cpus() -> int:
    """The CPUs of the largest node that is here."""
    return max(int(node.cpus) for node in cluster_nodes() if node.is_here)


def _loss(bench: Bench, name: str) -> dict[str, object]:
    weights = {} if name == "onet" else {"weights": bench.face_network()}
    return LOSS_SETTINGS[name] | weights


def _trained(bench: Bench) -> str:
    """A model of a few steps: the speed of encoding does not depend on how good it is."""
    folder = str(bench.folder / "model")
    bench.run("train", bench.train_config(_few_shards(bench), folder, training={"steps": 20}))
    return folder


def _vectors(bench: Bench, model: str) -> str:
    """The file of a model's attribute vectors."""
    output, shards = bench.fresh("attributes"), _few_shards(bench)
    config = AttributesConfig(
        output=output,
        shards=shards,
        model=model,
        encoding={"precision": "fp32"},  # what is plain is in fp32 too
        tracking=bench.tracking,
    )
    bench.run("attributes", config)
    return str(Path(output) / VECTORS)


def _few_shards(bench: Bench) -> str:
    return bench.shards(TRAINING_FACES, LOSSES["onet"])


def logged(config: TrainConfig, name: str) -> list[float]:
    """A logged value of a finished training, its first rows left out."""
    state = CheckpointManager(storage.absolute(config.output), config.training).newest()
    assert state is not None
    values = [row[name] for row in state.history if name in row]
    return values[ROWS_LEFT_OUT:]


def _steady_rate(watched: Watched, title: str, at_once: int) -> float:
    """Images a second of a pass once all its tasks run: from the end of the first of each on."""
    moments = watched.of(title)
    first, last = moments[min(at_once, len(moments)) - 1], moments[-1]
    if last.step.done == first.step.done:
        raise UserError(f"{title}: too few shards to measure a rate of: give more faces")
    return (last.step.done - first.step.done) / (last.seconds - first.seconds)


def _without_start(watched: Watched, rate: float) -> float:
    """Seconds of an attribute pass from its first image to the end of the command."""
    first = watched.of("encode")[0]
    return watched.seconds - (first.seconds - first.step.done / rate)


def _start(watched: Watched, title: str, seconds_per_step: float) -> float:
    """Seconds from the command to the end of its first step."""
    first = next(moment for moment in watched.of(title) if moment.step.done > 0)
    return first.seconds - (first.step.done - 1) * seconds_per_step


def _use(runs: Iterable[Watched], images: int) -> Measured:
    """Of memory, and of GPUs where there are any."""
    values: dict[str, Callable[[Watched], float]] = {
        "driver_megabytes": lambda run: run.driver_bytes / 1e6,
        "worker_megabytes": lambda run: run.worker_bytes / 1e6,
        "store_peak_megabytes": lambda run: run.store_peak / 1e6,
        "store_spilled_megabytes": lambda run: run.store_spilled / 1e6,
        "store_bytes_per_image": lambda run: run.store_made / images,
    }
    if torch.cuda.is_available():
        values["gpu_utilisation"] = lambda run: run.gpu_utilisation
    return {name: [value(run) for run in runs] for name, value in values.items()}
