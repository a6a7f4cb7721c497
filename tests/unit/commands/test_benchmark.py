"""Which cases a benchmark has, and what it refuses before anything starts."""

import json
from unittest.mock import Mock

import pytest

from facevae.benchmark import cases
from facevae.benchmark.bench import Bench
from facevae.commands import benchmark as commands_benchmark
from facevae.commands.benchmark import _cases, _made, benchmark
from facevae.commands.plan import describe_plan
from facevae.config import BenchmarkConfig, ScalingConfig
from facevae.errors import UserError
from facevae.ray_cluster.nodes import Node
from facevae.ray_cluster.placement import plan_workers


def test_every_model_is_trained_with_every_loss(tmp_path):
    config = BenchmarkConfig(
        cases=("training", "resume"),
        models=("dfc_vae", "dfc_vae_large"),
        losses=("onet", "facenet"),
    )
    assert list(_cases(Bench(config, tmp_path, "sqlite:////unused"))) == [
        "training/dfc_vae/onet",
        "training/dfc_vae/facenet",
        "training/dfc_vae_large/onet",
        "training/dfc_vae_large/facenet",
        "resume",
    ]
    everything = _cases(Bench(BenchmarkConfig(), tmp_path, "sqlite:////unused"))
    assert {name.partition("/")[0] for name in everything} == set(BenchmarkConfig().cases)


def test_trainings_are_measured_in_fp32_too_where_the_others_are_not(tmp_path):
    config = BenchmarkConfig(cases=("training", "start"), losses=("onet",), precision="bf16")
    bench = Bench(config, tmp_path, "sqlite:////unused")
    chosen = _cases(bench, in_fp32_too=True)
    assert list(chosen) == ["training/dfc_vae/onet", "training/dfc_vae/onet/fp32", "start"]
    assert chosen["training/dfc_vae/onet/fp32"].args[-1] == "fp32"
    made = {name: _made(name, "bf16", use_gpu=True) for name in chosen}
    assert [each.precision for each in made.values()] == ["bf16", "fp32", ""]
    assert [each.processor == "a GPU" for each in made.values()] == [True, True, False]


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize(
    ("precision", "use_gpu"), [("auto", True), ("auto", False), ("bf16", True)]
)
def test_what_auto_measures_is_decided_before_it_begins(
    tmp_path, monkeypatch, precision, is_native, use_gpu
):
    """In both precisions where bf16 is native, and longer where a GPU is soon through."""
    plan = Mock(use_gpu=use_gpu, cpus=1, worker_labels={})
    chosen = "bf16" if is_native or precision == "bf16" else "fp32"
    for name, value in {"connect": None, "cluster_nodes": [], "plan_workers": plan,
                        "choose_precision": chosen}.items():  # fmt: skip
        monkeypatch.setattr(commands_benchmark, name, Mock(return_value=value))
    config = BenchmarkConfig(precision=precision, output=str(tmp_path))
    work = commands_benchmark._prepare(config, str(tmp_path), None, {})
    bench, _, _, in_fp32_too, _ = work.run.args
    assert in_fp32_too == (precision == "auto" and is_native)
    assert bench.config.steps == (32 * 32 if use_gpu else 32)
    assert (bench.config.precision, work.identity["steps"]) == (chosen, 32)


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_two_workers_are_measured_on_what_one_trains_on(monkeypatch, gpus):
    nodes = [Node(8, gpus, 8e9)]
    monkeypatch.setattr(cases, "cluster_nodes", lambda: nodes)
    assert cases._fits_twice(plan_workers(ScalingConfig(), nodes)) == (gpus != 1)


def test_precision_and_steps_are_those_of_the_training(tmp_path):
    bench = Bench(BenchmarkConfig(precision="fp32", steps=24), tmp_path, "sqlite:////unused")
    training = bench.train_config("shards", "run").training
    assert (training.precision, training.steps, training.log_every) == ("fp32", 24, 3)


@pytest.mark.parametrize(
    ("settings", "content", "message"),
    [
        ({"output": "s3://bucket/bench"}, None, "is a URI: give a folder"),
        ({"against": "{}/none"}, None, r"there is no .*none/result\.json: give the output folder"),
        ({"against": "{}/result.json"}, '{"a": "b"}', "is not the result.json of a command"),
        ({"against": "{}"}, "[1]", "is not the result.json of a command"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, settings, content, message):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    given = {"output": str(tmp_path / "run")} | {
        key: value.format(tmp_path) for key, value in settings.items()
    }
    with pytest.raises(UserError, match=message):
        benchmark(BenchmarkConfig(**given))
    assert not (tmp_path / "run").exists()


def test_settings_of_another_benchmark_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"rounds": 3}))
    with pytest.raises(UserError, match=r"another rounds \(3 there, 5 here\)"):
        benchmark(BenchmarkConfig(output=str(tmp_path)))


@pytest.mark.parametrize(("precision", "is_compared"), [("fp32", False), ("bf16", True)])
def test_bf16_is_compared_with_fp32_where_it_is_trained_in(
    tmp_path, monkeypatch, precision, is_compared
):
    monkeypatch.setattr(Bench, "shards", lambda *_: "shards")
    monkeypatch.setattr(cases, "plan_workers", lambda *_: Mock(cpus=1, worker_labels={}))
    monkeypatch.setattr(cases, "cluster_nodes", list)
    monkeypatch.setattr(cases, "in_fresh_process", lambda *_: lambda: 2.0)
    monkeypatch.setattr(cases, "_vector_difference", lambda _: 0.0)
    found = cases.agreement_case(
        Bench(BenchmarkConfig(precision=precision), tmp_path, "sqlite:////unused")
    )
    assert ("last_loss_bf16" in found, "bf16_difference" in found) == (is_compared, is_compared)
    assert found["spread_of_seeds"] == [0.0]


def test_the_plan_says_what_it_draws_and_takes():
    lines = describe_plan("benchmark", BenchmarkConfig(), [Node(2, 0, 8e9)])
    assert "precision: auto: bf16 where the workers have it natively; counted is fp32" in lines
    assert "precision: auto: bf16 where the encoders have it natively" in lines
    assert any("draws up to 222,599 faces" in line for line in lines)
    assert any(line.startswith("attributes: 2 encoders") for line in lines)
    trainings = [line for line in lines if line.startswith("training/")]
    assert trainings == [
        f"training/dfc_vae/{loss}, workers {n}:" for loss in ("facenet", "onet") for n in (1, 2)
    ]
    sharding = describe_plan("benchmark", BenchmarkConfig(cases=("sharding",)), [Node(2, 0, 8e9)])
    assert not any(line.startswith(("train", "attributes")) for line in sharding)
