"""`compare` from the folders of finished evaluations: what it writes, and what it refuses."""

import csv
import json
import shutil

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from facevae.cli import main
from facevae.commands.compare import compare_models
from facevae.config import CompareConfig
from facevae.errors import UserError
from facevae.evaluation.image_table import FIGURES, ImageRows, write_images
from facevae.tracking import read_run_id

QUIET = {"system_metrics": False}
NAMES = ["Smiling", "Hat"]


def make(folder, gap: float, seed: int, *, digest="shards", network="a", first=0, done=True,
         people=False) -> str:  # fmt: skip
    """The output folder of an evaluation whose scores are `gap` apart."""
    folder.mkdir(parents=True)
    labels = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (400, 2))
    scores = np.random.default_rng(seed).normal(size=(400, 2)) + gap * (labels > 0)
    figures = {name: np.full(400, np.nan, np.float32) for name in FIGURES}
    figures["perceptual_distance"][:] = 0.1
    ids = [f"{first + i}.jpg" for i in range(400)]
    rows = ImageRows(ids, ids, ["test"] * 400, scores.astype(np.float32), labels, figures)
    write_images(str(folder / "images.parquet"), [rows], 2)
    details = {
        "attributes": NAMES, "network": {"digest": network}, "image_size": 64,
        "people_known": people,
        "shards_digest": digest, "model_digest": str(seed),
        "metrics": {"auc/mean": 0.5, "frechet": 7.0, "psnr": None},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(details))
    if done:
        (folder / "result.json").write_text("{}")
    faces = np.random.default_rng(seed).integers(0, 256, (134, 67 * 5, 3), np.uint8)
    Image.fromarray(faces).save(folder / "reconstructions.png")
    return str(folder)


def compare(output, runs, **settings) -> dict[str, float]:
    return compare_models(
        CompareConfig(output=str(output), runs=runs, resamples=100, tracking=QUIET, **settings)
    )


def test_what_is_written_printed_and_logged(tmp_path, capsys):
    runs = [make(tmp_path / n, gap, seed) for seed, (n, gap) in
            enumerate({"none": 0.0, "good": 2.0, "also": 2.0}.items())]  # fmt: skip
    output = tmp_path / "out"
    metrics = compare(output, runs)
    assert [metrics[f"rank/{name}"] for name in ("good", "also", "none")] == [1, 1, 3]
    assert metrics["low/good"] < metrics["auc/mean/good"] < metrics["high/good"]
    assert metrics["images"] == 400
    told = capsys.readouterr().err
    assert "auc/mean, higher is better; 400 images; 95 % intervals over images;" in told
    assert "tied with good" in told
    assert "tied with also" in told
    names = {"comparison.json", "comparison.csv", "comparison.png", "strips.png"}
    assert names <= {path.name for path in output.iterdir()}
    with (output / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"none", "good", "also"}
    assert {row["frechet"] for row in rows} == {"7.0"}
    run = read_run_id(str(output))
    client = MlflowClient(run.uri)
    assert client.get_run(run.run_id).data.metrics["auc/mean/good"] == metrics["auc/mean/good"]
    assert {file.path for file in client.list_artifacts(run.run_id)} >= names
    # The same again is done, another one replaces it.
    assert compare(output, runs) == metrics
    assert "already done" in capsys.readouterr().err
    assert "auc/Hat/good" in compare(output, runs, primary="auc/Hat")


def test_networks_that_differ_are_said(tmp_path, capsys):
    runs = [make(tmp_path / "a", 1.0, 1), make(tmp_path / "b", 1.0, 2, network="b")]
    compare(tmp_path / "out", runs)
    assert "are of different face networks" in capsys.readouterr().err
    assert "frechet" not in (tmp_path / "out" / "comparison.csv").read_text()
    with pytest.raises(UserError, match="another face network"):
        compare(tmp_path / "other", runs, primary="perceptual_distance")


def test_folders_that_hold_one_and_that_are_named_alike(tmp_path):
    for name in ("x", "y"):
        make(tmp_path / name / "evaluate", 1.0, ord(name))
    metrics = compare(tmp_path / "out", [str(tmp_path / "x"), str(tmp_path / "y")])
    assert {"rank/x/evaluate", "rank/y/evaluate"} <= set(metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": False}, "no finished evaluation in .*b: give the output folder"),
        ({"first": 9_000}, "a and b have no held-out image in common"),
        ({"people": True}, "b was evaluated with --identities and a without: evaluate both"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, change, message):
    runs = [make(tmp_path / "a", 1.0, 1), make(tmp_path / "b", 1.0, 2, **change)]
    with pytest.raises(UserError, match=message) as refused:
        compare(tmp_path / "out", runs)
    assert "\n" not in str(refused.value)


def test_a_run_beside_itself_or_a_folder_without_one(tmp_path):
    run = make(tmp_path / "a", 1.0, 1)
    with pytest.raises(UserError, match="named twice"):
        compare(tmp_path / "out", [run, run + "/"])
    with pytest.raises(UserError, match=r"no finished evaluation in .*nowhere"):
        compare(tmp_path / "out", [run, str(tmp_path / "nowhere")])


def test_runs_are_given_as_words(tmp_path, capsys):
    runs = [make(tmp_path / "a, b", 1.0, 1), make(tmp_path / "c", 1.0, 2)]
    words = [*runs, "--output", str(tmp_path / "out"), "--resamples", "100",
             "--tracking.system_metrics", "false"]  # fmt: skip
    assert main(["compare", *words]) == 0
    assert "rank/a, b 1" in capsys.readouterr().out
    assert main(["compare", runs[0]]) == 2
    assert "runs" in capsys.readouterr().err
    assert main(["compare", *runs, "--dry_run"]) == 0
    assert "compare: 2 evaluations" in capsys.readouterr().out


def test_a_model_that_was_measured_anew_is_compared_anew_and_old_strips_go(tmp_path):
    runs = [make(tmp_path / "a", 1.0, 1), make(tmp_path / "b", 2.0, 2)]
    first = compare(tmp_path / "out", runs)
    assert (tmp_path / "out" / "strips.png").exists()
    assert compare(tmp_path / "out", runs) == first
    shutil.rmtree(tmp_path / "a")
    make(tmp_path / "a", 3.0, 1, digest="other shards")
    assert compare(tmp_path / "out", runs)["rank/a"] == 1 != first["rank/a"]
    assert not (tmp_path / "out" / "strips.png").exists()
