"""Names that MLflow would refuse: mapped, told apart, and the rest of the run arrives."""

import json
import math
import re

import numpy as np
import pytest
from mlflow import MlflowClient

from facevae.config import TrackingConfig
from facevae.tracking import start_run
from facevae.tracking.names import LONGEST, mlflow_name

REFUSED = [
    *("auc/Age>50", "auc/Age<50", "auc/Age%50", "auc/a,b", "auc/(smile)", "auc/\U0001f642"),
    *("auc/a\u0308", "auc/a\nb", "auc/a\tb", "auc/\x00", "auc/\ud800"),
    *("auc/", "auc//a", "auc/..", "auc/./a", "/auc", "../auc", ".", "..", ""),
    *("auc/" + "long" * 100, "auc/" + "long" * 99 + "_end", "auc/" + "\U0001f642" * 400),
]


@pytest.mark.parametrize(
    "name", ["auc/Smiling", "auc/Lächeln", "auc/笑", "a b", "train/kl", "a:b", "x" * LONGEST, ".a"]
)
def test_a_name_that_mlflow_takes_stays(name):
    assert mlflow_name(name) == name


def test_a_mapped_name_can_be_read():
    assert re.fullmatch(r"auc/Age_50-[0-9a-f]{12}", mlflow_name("auc/Age>50"))
    assert mlflow_name("auc/" + "long" * 100).startswith("auc/longlonglong")


def test_names_stay_apart_and_are_the_same_each_time():
    mapped = [mlflow_name(name) for name in REFUSED]
    assert len({*mapped, *REFUSED}) == 2 * len(REFUSED)
    assert mapped == [mlflow_name(name) for name in REFUSED]
    assert [mlflow_name(name) for name in mapped] == mapped
    assert max(map(len, mapped)) <= LONGEST


def test_all_of_a_run_with_names_that_mlflow_refuses_arrives(tmp_path, capsys):
    config = TrackingConfig(system_metrics=False)
    settings = {"labels": dict.fromkeys(REFUSED, 1)}
    with start_run(config, "test", str(tmp_path), settings) as run:
        run.metrics(0, {name: place for place, name in enumerate(REFUSED)})
        run.tags(dict.fromkeys(REFUSED, "v" * 10_000))
        run.image("Age>50", 3, np.zeros((4, 4, 3), np.uint8))
    client = MlflowClient(run.id.uri)
    record = client.get_run(run.id.run_id)
    assert record.info.status == "FINISHED"
    mapped = [mlflow_name(name) for name in REFUSED]
    assert record.data.metrics == {name: place for place, name in enumerate(mapped)}
    assert set(mapped) <= set(record.data.tags)
    assert set(record.data.params) == {mlflow_name(f"labels.{name}") for name in REFUSED}
    assert len(client.list_artifacts(run.id.run_id, "images")) == 2
    assert capsys.readouterr().err == ""


def test_what_is_not_finite_is_no_point_and_null_in_a_file(tmp_path):
    values = {"nan": math.nan, "inf": math.inf, "loss": 1.0}
    with start_run(TrackingConfig(system_metrics=False), "test", str(tmp_path), {}) as run:
        run.metrics(0, values)
        run.json("history.json", [values])
    assert MlflowClient(run.id.uri).get_run(run.id.run_id).data.metrics == {"loss": 1.0}
    (path,) = tmp_path.rglob("history.json")
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == [
        {"nan": None, "inf": None, "loss": 1.0}
    ]


def test_what_the_store_refuses_costs_itself_alone(tmp_path, capsys):
    """A value that no store takes, amid points, pictures and files that it takes."""
    config = TrackingConfig(system_metrics=False)
    with start_run(config, "test", str(tmp_path), {}) as run:
        send = run._client.log_batch

        def refuse_one(run_id, metrics=(), **others):
            if any(metric.key == "bad" for metric in metrics):
                raise ValueError("no such metric here")
            send(run_id, metrics=metrics, **others)

        run._client.log_batch = refuse_one
        run._client.log_dict = lambda *_: 1 / 0
        run.metrics(0, {**{f"auc/{n}": n for n in range(40)}, "bad": 1, "auc/mean": 2})
        run.json("faces.json", ["a"])
        run.dataset("shards", "0" * 64, "training")
    record = MlflowClient(run.id.uri).get_run(run.id.run_id)
    assert record.info.status == "FINISHED"
    assert len(record.data.metrics) == 41
    assert len(record.inputs.dataset_inputs) == 1
    first, both = capsys.readouterr().err.splitlines()
    assert "refuses metric 'bad' of step 0 (ValueError: no such metric here)" in first
    assert "refused 2 of the things to log: metric 'bad' of step 0, faces.json; all" in both
