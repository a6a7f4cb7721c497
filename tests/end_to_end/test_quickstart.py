"""The whole pipeline as a user runs it, in small: figures, pictures, lineage, and a second run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    "--config", "configs/quickstart.yaml", "--drawn.count", "3000", "--training.steps", "120",
    "--model.batch_norm_decay", "0.9",
]  # fmt: skip


def quickstart(output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("facevae"), "quickstart", *WORDS, "--output", output],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("quickstart") / "out"
    process = quickstart(output)
    assert process.returncode == 0, process.stderr[-3000:]
    return output, process


def test_it_prints_figures_that_show_the_attributes_were_learnt(finished):
    output, process = finished
    figures = dict(line.split() for line in process.stdout.splitlines())
    stored = json.loads((output / "result.json").read_text())
    assert {key: float(value) for key, value in figures.items()} == pytest.approx(stored, rel=1e-5)
    for name in ("Smiling", "Male", "Bald", "Black_Hair"):
        assert stored[f"auc/{name}"] > 0.8, name
    assert stored["auc/mean"] > 0.75
    assert stored["kept/Smiling"] > 0.1


def test_it_leaves_the_pictures_it_names(finished):
    output, process = finished
    assert "mlflow ui --backend-store-uri sqlite:///" in process.stderr
    for name in ("train/curves.png", "attributes/similarity.png", "attributes/auc.png",
                 "edit/edit_labelled.png"):  # fmt: skip
        assert str(output / name) in process.stderr
        assert Image.open(output / name).width > 400
    assert Image.open(output / "edit" / "edit.png").size == (1343, 539)


def test_runs_are_linked_in_one_store(finished):
    output, _ = finished
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    experiment = client.get_experiment_by_name("facevae")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"shards", "train", "attributes", "edit"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    ids = {name: run.info.run_id for name, run in runs.items()}
    assert runs["train"].data.tags["facevae.shards_run"] == ids["shards"]
    assert runs["attributes"].data.tags["facevae.training_run"] == ids["train"]
    assert runs["edit"].data.tags["facevae.training_run"] == ids["train"]
    assert runs["edit"].data.tags["facevae.attributes_run"] == ids["attributes"]


def test_a_second_run_says_that_it_is_done(finished):
    output, first = finished
    again = quickstart(output)
    assert again.returncode == 0
    assert again.stderr.count("already done") == 4
    assert again.stdout.count("auc/") == first.stdout.count("auc/")
