"""The cost of a cluster, against sums done by hand."""

import json

import pytest

from facevae.benchmark.prediction import (
    GRADIENT_BYTES,
    Machine,
    Network,
    attributes,
    main,
    training,
    two_workers_over_one,
)
from facevae.config import ModelConfig
from facevae.models import build_vae

MACHINE = Machine(trained=1000, encoded=8000, decoded=5000, cores=4, dollars=3.0)
NETWORK = Network(between=1e9, store=1e8)


def _train(workers: int, **changes: float):
    settings = {"images": 3.6e6, "batch": 128, "gradient_bytes": 1e7, "bytes_per_image": 1e4,
                "start_seconds": 0.0} | changes  # fmt: skip
    return training(MACHINE, NETWORK, workers, **settings)


def test_one_worker_trains_as_measured():
    alone = _train(1)
    assert alone.images_per_second == pytest.approx(1000)
    assert alone.hours == pytest.approx(1)
    assert alone.dollars == pytest.approx(3)
    assert alone.limit == "workers"


def test_a_step_takes_as_long_as_its_launches():
    machine = MACHINE._replace(launches=0.1)
    found = training(machine, NETWORK, 8, 3.6e6, 128, 0.0, 1e4, 0.0)
    assert found.images_per_second == pytest.approx(128 / 0.1)
    assert found.limit == "launches"


def test_more_workers_pay_for_the_sum_of_gradients():
    four = _train(4)
    step = 32 / 1000 + 1.5 * 1e7 / 1e9
    assert four.images_per_second == pytest.approx(128 / step)
    assert four.dollars == pytest.approx(12 * four.hours)
    assert _train(64, bytes_per_image=10).limit == "sum of gradients"


def test_a_slow_store_and_slow_decoding_are_named():
    assert _train(1, bytes_per_image=1e6).limit == "object store"
    slow = MACHINE._replace(decoded=100)
    assert training(slow, NETWORK, 1, 1e6, 128, 1e7, 1e4, 0).limit == "decoding"


def test_encoders_add_up_and_starting_is_paid_for():
    one, ten = (attributes(MACHINE, NETWORK, n, 8e6, 1e3, 36) for n in (1, 10))
    assert one.images_per_second == pytest.approx(8000)
    assert one.hours == pytest.approx((1000 + 36) / 3600)
    assert ten.images_per_second == pytest.approx(80_000)


def test_without_gpus_every_core_does_both():
    cores = MACHINE._replace(encoded=500, decoded=2000, is_cpu=True)
    two = attributes(cores, NETWORK, 2, 8e6, 1e3, 0)
    assert two.images_per_second == pytest.approx(2 * 4 * 400)
    assert two.limit == "cores"
    assert attributes(cores, NETWORK, 2, 8e6, 1e6, 0).limit == "object store"


def test_two_halves_of_a_machine_lose_the_sum_of_gradients():
    assert two_workers_over_one(0, 400, 128, 1e9) == 1
    assert two_workers_over_one(1e7, 400, 128, 1e9) == pytest.approx(0.32 / 0.33)


@pytest.mark.parametrize("name", GRADIENT_BYTES)
def test_gradient_bytes_are_those_of_the_models(name):
    trained = sum(p.numel() for p in build_vae(ModelConfig(name=name)).parameters()
                  if p.requires_grad)  # fmt: skip
    assert GRADIENT_BYTES[name] == pytest.approx(4 * trained, rel=0.01)


def test_the_table_is_printed_from_a_result(tmp_path, capsys):
    result = {
        "training/dfc_vae/facenet/ours": 400.0,
        "training/dfc_vae/facenet/seconds_to_first_step": 10.0,
        "attributes/encoding": 5000.0,
        "attributes/decoding": 60_000.0,
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert main([str(tmp_path / "result.json"), "--workers", "1", "8", "--dollars", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| 1 | 50,000 steps | 400 | 4.45 | 8.89 | workers")
    assert len(rows) == 6
    assert rows[3].startswith("| 1 | attributes of 202,599 | 5,000 |")
    assert main([str(tmp_path / "result.json"), "--cpu", "--cores", "4"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[3].startswith("| 1 | attributes of 202,599 | 9,231 |")  # 4 / (1/2,500 + 1/30,000)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "has no 'training/dfc_vae/facenet/ours': run that case"), ("[]", "is no result.json"),
     ("{", "is no result.json"), (None, "is no result.json")],
)  # fmt: skip
def test_a_result_that_is_none_is_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "other.json").write_text(content)
    assert main([str(tmp_path / "other.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
