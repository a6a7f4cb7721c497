"""The checks find whatever is lost, repeated, changed or left over; each is planted once."""

import io
import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.chaos.checks import (
    LAST_CHECKPOINT,
    Outcome,
    RunRecord,
    broken_laws,
    completed,
    short_means,
)

CHECKPOINT = LAST_CHECKPOINT.removesuffix("training.json")
STEPS = range(2, 41, 2)


def parquet(*ids: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image_id": [*ids]}), file)
    return file.getvalue()


def vectors(*ids: str) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content["image_ids"] = [*ids]
    return file.getvalue()


def statistics(count: int, rejected: int = 0) -> bytes:
    file = io.BytesIO()
    np.savez(file, count=count, rejected=rejected)
    return file.getvalue()


def history(**changed: float) -> bytes:
    rows = [
        {"step": step, "train/loss": 1 / step, "train/images_per_second": 7.0 + len(changed)}
        for step in STEPS
    ]
    for row in rows:
        row["train/loss"] = changed.get(f"loss_{row['step']}", row["train/loss"])
    return json.dumps({"history": rows}).encode()


def runs() -> list[RunRecord]:
    loss = [(step, 1 / step) for step in STEPS]
    rate = [(step, 7.0) for step in STEPS]
    return [
        RunRecord("shards", "FINISHED", {"images": [(0, 4.0)]}),
        RunRecord("train", "FINISHED", {"train/loss": loss, "train/images_per_second": rate}, "1"),
        RunRecord("attributes", "FINISHED", {"auc/mean": [(0, 0.5)]}),
    ]


def outcome(**files: bytes) -> Outcome:
    """What a tiny pipeline leaves: four images in two shards."""
    shards = [{"name": "train-00000", "rows": 3}, {"name": "val-00000", "rows": 1}]
    return Outcome(
        {
            "shards/manifest.json": json.dumps({"digest": "abc", "shards": shards}).encode(),
            "shards/data/train-00000.parquet": parquet("a", "b", "c"),
            "shards/data/val-00000.parquet": parquet("d"),
            "attributes/statistics/train-00000.npz": statistics(2, 1),
            "attributes/statistics/val-00000.npz": statistics(1),
            "attributes/attribute_vectors.h5": vectors("a", "b", "c", "d"),
            "train/model/model.safetensors": b"weights",
            f"{CHECKPOINT}optimizer.pt": b"moments",
            LAST_CHECKPOINT: history(),
            **files,
        },
        runs(),
    )


def test_nothing_is_found_where_nothing_is_wrong():
    rates_differ = outcome()
    rates_differ.runs[1].metrics["train/images_per_second"][:] = [(s, 9.0) for s in STEPS]
    kept = {f"train/checkpoints/step_{s:07d}/training.json": b"" for s in (25, 30, 35)}
    assert broken_laws(outcome(), outcome()) == []
    assert broken_laws(rates_differ, outcome(**kept)) == []


LAST = {"train/checkpoints/step_0000035/model.json": b""}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"shards/data/val-00000.parquet": parquet("a")}, "repeated: 1 images in the shards"),
        ({"shards/data/val-00000.parquet": parquet("x")}, "changed: shards/data/val-00000.parquet"),
        (
            {"attributes/attribute_vectors.h5": vectors("a", "b", "c", "c")},
            "repeated: 1 images in attribute_vectors.h5",
        ),
        ({"attributes/statistics/val-00000.npz": statistics(2)}, "images: 4 in the manifest"),
        ({"attributes/statistics/val-00000.npz": statistics(0)}, "images: 4 in the manifest"),
        ({"train/model/model.safetensors": b"others"}, "changed: train/model/model.safetensors"),
        ({f"{CHECKPOINT}optimizer.pt": b"others"}, f"changed: {CHECKPOINT}optimizer.pt"),
        ({LAST_CHECKPOINT: history(loss_8=3.0)}, "the history differs"),
        (
            {LAST_CHECKPOINT: json.dumps(
                {"history": 2 * json.loads(history())["history"]}
            ).encode()},
            "repeated: train/loss of step 2",
        ),
        ({"shards/data/.x.parquet": b""}, "left over: shards/data/.x.parquet"),
        ({"attributes/.x.tmp": b""}, "left over: attributes/.x.tmp"),
        (LAST, "left over: a part of checkpoint step_0000035"),
        (
            {f"train/checkpoints/step_{s:07d}/training.json": b"" for s in (5, 10, 15, 20)},
            "left over: 5 checkpoints",
        ),
        ({"train/driver.lock.000001": b"{}"}, "left over: train/driver.lock.000001"),
        (
            {"shards/manifest.json": outcome().files["shards/manifest.json"].replace(b"b", b"x")},
            "the data set's digest is axc",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_files_is_found(files, line):
    found = broken_laws(outcome(**files), outcome())
    assert any(each.startswith(line) for each in found), found


@pytest.mark.parametrize("name", [*outcome().files])
def test_a_lost_file_is_found(name):
    if name == f"{CHECKPOINT}optimizer.pt":
        pytest.skip("it is found as a changed one")
    found = outcome()
    del found.files[name]
    assert f"lost: {name}" in broken_laws(found, outcome())


def _point_twice(found: list[RunRecord]) -> None:
    found[1].metrics["train/loss"].append((8, 1 / 8))


def _point_lost(found: list[RunRecord]) -> None:
    found[1].metrics["train/loss"].pop()


def _other_value(found: list[RunRecord]) -> None:
    found[1].metrics["train/loss"][3] = (8, 0.3)


def _second_run(found: list[RunRecord]) -> None:
    found.append(found[0])


def _run_lost(found: list[RunRecord]) -> None:
    found.pop()


def _metric_lost(found: list[RunRecord]) -> None:
    found[2].metrics.clear()


def _still_running(found: list[RunRecord]) -> None:
    found[0] = found[0]._replace(status="RUNNING")


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (_point_twice, "MLflow, train: train/loss has steps {8: 1} too often"),
        (_point_lost, "MLflow, train: train/loss has steps {} too often, {40: 1} not"),
        (_other_value, "MLflow, train: train/loss has other values"),
        (_second_run, "MLflow has {'shards': 2"),
        (_run_lost, "MLflow has {'shards': 1, 'train': 1} runs"),
        (_metric_lost, "MLflow, attributes: auc/mean has steps {} too often, {0: 1} not"),
        (_still_running, "the MLflow run of shards is RUNNING"),
    ],
)
def test_what_is_wrong_in_mlflow_is_found(plant, line):
    found = outcome()
    plant(found.runs)
    lines = broken_laws(found, outcome())
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_a_checkpoint_out_of_turn_excuses_one_mean_and_no_other():
    assert short_means("1 8 11 36 40") == {8, 40}
    for step, is_excused in ((8, True), (10, False)):
        found = outcome(**{LAST_CHECKPOINT: history(**{f"loss_{step}": 3.0})})
        points = found.runs[1].metrics["train/loss"]
        points[step // 2 - 1] = (step, 3.0)
        found.runs[1] = found.runs[1]._replace(starts="1 8")
        assert (broken_laws(found, outcome()) == []) is is_excused


def test_commands_that_did_not_run_are_taken_from_the_quiet_run():
    quiet = outcome()
    attributes = {n: c for n, c in quiet.files.items() if n.startswith("attributes/")}
    found = Outcome({**attributes, "attributes/more": b""}, runs()[2:])
    assert broken_laws(found, quiet)
    whole = completed(found, quiet, ["attributes"])
    assert broken_laws(whole, quiet) == ["left over: attributes/more"]
    assert broken_laws(completed(found, quiet, ["train", "attributes"]), quiet)
