"""A benchmark of a few faces: what is measured, kept, shown and compared."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import ray
import torch
from mlflow import MlflowClient
from PIL import Image

from facevae.benchmark import agreement, cases, encoding_rate, step_rate
from facevae.benchmark.agreement import Vectors
from facevae.benchmark.bench import Bench
from facevae.benchmark.encoding_rate import Images
from facevae.benchmark.resume import Trainings, seconds_after_a_lost_worker
from facevae.benchmark.step_rate import Steps
from facevae.benchmark.watched_command import (
    Watched,
    gpu_utilisation,
    peak_bytes,
    run_command,
    store_use,
)
from facevae.commands.benchmark import benchmark
from facevae.config import AttributesConfig, BenchmarkConfig, EncodingConfig, TrainConfig
from facevae.data.shard_files import read_manifest
from facevae.errors import UserError
from facevae.tracking import read_run_id

FACES = 256
STEPS, BATCH = 6, 32


@pytest.fixture(scope="module")
def config(ray_cluster, tmp_path_factory) -> BenchmarkConfig:
    output = tmp_path_factory.mktemp("benchmark") / "run"
    return BenchmarkConfig(
        output=str(output), cases=("sharding",), rounds=1, tracking={"system_metrics": False}
    )


@pytest.fixture(scope="module")
def result(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "SHARDING_FACES", FACES)
        return benchmark(config)


def test_rates_ratios_and_memory_are_measured(result):
    for name in ("ceiling", "bare_loop", "ours"):
        assert result[f"sharding/{name}"] > 1
    ratio = result["sharding/ours"] / result["sharding/bare_loop"]
    assert result["sharding/share_of_bare_loop"] == pytest.approx(ratio)
    assert 50 < result["sharding/driver_megabytes"] < 4000
    assert result["sharding/worker_megabytes"] > 50
    assert result["sharding/store_spilled_megabytes"] == 0


def test_what_was_measured_is_kept_and_shown(config, result):
    folder = config.output
    assert json.loads(Path(folder, "result.json").read_text()) == pytest.approx(result)
    with Image.open(f"{folder}/rates.png") as picture:
        assert picture.width > 500
    run = read_run_id(folder)
    metrics = MlflowClient(run.uri).get_run(run.run_id).data.metrics
    assert metrics["sharding/ours"] == pytest.approx(result["sharding/ours"])


def test_the_same_command_measures_nothing_again_and_compares(config, result, capsys):
    again = benchmark(config.model_copy(update={"against": config.output}))
    assert again == pytest.approx(result)
    said = capsys.readouterr().err
    assert "benchmark: sharding is measured already" in said
    assert "| +0.0% |" in said


def test_other_settings_need_another_folder(config, result):
    with pytest.raises(UserError, match="is of another rounds"):
        benchmark(config.model_copy(update={"rounds": 2}))
    with pytest.raises(UserError, match=r"there is no .*result\.json"):
        benchmark(config.model_copy(update={"against": f"{config.output}/settings"}))


def test_a_command_that_fails_ends_the_benchmark_with_its_words(ray_cluster):
    with pytest.raises(UserError, match=r"facevae train failed while it was measured: .*no shards"):
        run_command(["train", "--shards", "/nowhere", "--output", "/tmp/never"])


def test_steps_without_ray_are_timed(shards, tmp_path):
    bench = Bench(BenchmarkConfig(precision="fp32", steps=16), tmp_path, "unused")
    config = bench.train_config(str(shards), "unused", training={"global_batch_size": 4})
    for function in (step_rate.ceiling, step_rate.bare_loop, step_rate.unoptimised):
        assert function(Steps(config, str(shards), 1, 2)) > 1


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> tuple[Bench, AttributesConfig, Watched]:
    """A training of six steps, watched; and the attribute pass of its model, not yet run."""
    folder = tmp_path_factory.mktemp("trained")
    bench = Bench(BenchmarkConfig(precision="fp32"), folder, f"sqlite:///{folder}/mlflow.db")
    few = {"steps": STEPS, "global_batch_size": BATCH, "log_every": 3, "grid_every": STEPS}
    config = bench.train_config(str(shards), str(folder / "run"), training=few)
    watched = bench.run("train", config)
    encoding = AttributesConfig(
        output=str(folder / "attributes"),
        shards=str(shards),
        model=config.output,
        encoding={"precision": "fp32"},  # as exact as what is plain
        tracking=bench.tracking,
    )
    return bench, encoding, watched


def test_an_encoder_without_ray_is_timed(shards, trained):
    _, config, _ = trained
    names = [shard.name for shard in read_manifest(str(shards)).shards[:2]]
    images = Images(
        str(shards), names, f"{config.model}/model", EncodingConfig(batch_size=32), 2, False
    )
    rates = [
        f(images) for f in (encoding_rate.decoding, encoding_rate.encoding, encoding_rate.bare_loop)
    ]
    assert min(rates) > 1
    assert rates[0] > rates[1]  # decoding 64 pixels is the smaller part


def test_bytes_that_pass_through_the_store_stay_few(shards, trained):
    """Counts that no clock disturbs: of training its pixels once, of the attribute pass nothing."""
    bench, config, training_run = trained
    assert training_run.store_made / (STEPS * BATCH) < 1.2 * 64 * 64 * 3
    weights = 9.3e6  # put there once, whatever the number of images
    made = bench.run("attributes", config).store_made
    assert made - weights < 100 * read_manifest(str(shards)).rows()


def test_the_start_of_commands_is_timed(shards, trained, monkeypatch):
    bench, config, _ = trained
    if not Path(config.output, "attribute_vectors.h5").exists():
        bench.run("attributes", config)
    monkeypatch.setattr(cases, "_trained", lambda _: config.model)
    monkeypatch.setattr(cases, "_vectors", lambda *_: f"{config.output}/attribute_vectors.h5")
    found = cases.start_case(Bench(BenchmarkConfig(rounds=1), bench.folder, bench.tracking["uri"]))
    (seconds_of_help,), (seconds_of_edit,) = found.values()
    assert 0 < seconds_of_help < seconds_of_edit
    (picture,) = (bench.folder / "runs").glob("*-edit/edit.png")
    with Image.open(picture) as image:
        assert image.height == 64 + 2 * 3  # one face


@pytest.mark.long  # with played lines: tests/unit/benchmark/test_resume.py
def test_a_training_goes_on_after_a_lost_worker(shards, tmp_path):
    bench = Bench(BenchmarkConfig(steps=24), tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert 1 < seconds_after_a_lost_worker(Trainings(bench, str(shards), {}), 5) < 120
    (output,) = (tmp_path / "runs").iterdir()
    run = MlflowClient(bench.tracking["uri"]).get_run(read_run_id(str(output)).run_id)
    assert run.data.tags["facevae.restarts"] == "1"


def test_the_memory_of_a_child_is_its_own():
    """Not that of the process that started it, which is larger."""
    pause = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", pause], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 30
        while not 1e6 < peak_bytes(child.pid) < 100e6 and time.monotonic() < deadline:
            time.sleep(0.05)  # until its program has begun
        assert 1e6 < peak_bytes(child.pid) < 100e6 < peak_bytes(os.getpid())
        child.communicate()
        assert peak_bytes(child.pid) == 0


def test_the_store_is_read_on_this_cluster(ray_cluster):
    before = store_use()
    reference = ray.put(np.zeros(1_000_000, np.uint8))
    assert store_use().made - before.made >= 1_000_000
    assert store_use().used >= 1_000_000
    del reference


def test_what_is_fast_agrees_with_what_is_plain(shards, trained, tmp_path):
    """A planted difference is seen; without one, losses, gradients and vectors are the same."""
    bench, config, _ = trained
    few = {"global_batch_size": 8, "precision": "fp32", "horizontal_flip": False}
    steps = Steps(bench.train_config(str(shards), "unused", training=few), str(shards), 1, 4)
    assert agreement.loss_difference(steps) < 1e-5
    assert agreement.gradient_difference(steps) < 1e-3
    full, half = (
        agreement.last_loss(steps._replace(config=_with_precision(steps.config, precision)))
        for precision in ("fp32", "bf16")
    )
    assert half == pytest.approx(full, rel=0.02)
    if not Path(config.output, "attribute_vectors.h5").exists():
        bench.run("attributes", config)
    file = Path(shutil.copy(Path(config.output) / "attribute_vectors.h5", tmp_path))
    done = Vectors(str(file), str(shards), f"{config.model}/model")
    assert agreement.vector_difference(done) < 1e-5
    with h5py.File(file, "r+") as vectors:
        vectors["attribute_vectors"][...] *= 1.01
    assert agreement.vector_difference(done) == pytest.approx(0.01, rel=0.01)


def _with_precision(config: TrainConfig, precision: str) -> TrainConfig:
    return config.model_copy(
        update={"training": config.training.model_copy(update={"precision": precision})}
    )


def test_gpus_are_watched_where_there_are_any(monkeypatch):
    assert gpu_utilisation() == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "utilization", lambda number: (80, 20)[number])
    assert gpu_utilisation() == [0.8, 0.2]
    watched = Watched(1.0, [], 1, 1, 1, 1, 1, 0.5)
    assert cases._use([watched], 1)["gpu_utilisation"] == [0.5]
