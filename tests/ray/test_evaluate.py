"""An evaluation on Ray: each held-out image once, the same for any number of actors, taken up."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from facevae.commands.attributes import compute_attributes
from facevae.commands.evaluate import evaluate_model
from facevae.config import AttributesConfig, EvaluateConfig, ModelConfig
from facevae.errors import UserError
from facevae.evaluation.image_table import read_images
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model
from facevae.tracking import read_run_id

QUIET = {"system_metrics": False}
ENCODING = {"batch_size": 32, "min_count": 5, "precision": "fp32"}
JUDGED = {"judge": "mtcnn_onet", "decoded": 40, "edited": 4, "strengths": [1.0, 3.0]}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with random weights, whose loss nobody knows."""
    folder, config = tmp_path_factory.mktemp("model"), ModelConfig(latent_size=12)
    torch.manual_seed(0)
    save_model(folder, build_vae(config).state_dict(), ModelCard(config, 0, "shards", "run"))
    return folder


@pytest.fixture(scope="module")
def vectors(model, shards, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("attributes") / "vectors"
    compute_attributes(
        AttributesConfig(
            output=str(output), shards=str(shards), model=str(model), encoding=ENCODING,
            tracking=QUIET,
        )
    )  # fmt: skip
    return output


def evaluate(model, shards, vectors, output, actors=2, **evaluation) -> dict[str, float]:
    return evaluate_model(
        EvaluateConfig(
            output=str(output), shards=str(shards), model=str(model), vectors=str(vectors),
            encoding=ENCODING | {"actors": actors}, evaluation=JUDGED | evaluation, tracking=QUIET,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(model, shards, vectors, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """The output of an evaluation with two actors, and its metrics."""
    output = tmp_path_factory.mktemp("evaluate") / "two"
    return output, evaluate(model, shards, vectors, output)


def test_scores_are_those_of_the_attribute_pass(evaluated, vectors):
    _, metrics = evaluated
    expected = json.loads((vectors / "result.json").read_text())
    known = {n: v for n, v in expected.items() if n.startswith("auc/") and v is not None}
    assert len(known) > 20
    for name, value in known.items():
        assert metrics[name] == pytest.approx(value, abs=5e-3), name  # 120 images, in bins


def test_the_table_has_each_held_out_image_once_with_what_the_metrics_are_of(evaluated):
    output, metrics = evaluated
    parts = list(read_images(str(output / "images.parquet")))
    ids = [image for part in parts for image in part.image_id]
    assert len(ids) == len(set(ids)) == metrics["images"]
    assert {split for part in parts for split in part.split} == {"val", "test"}
    psnr = np.concatenate([part.figures["psnr"] for part in parts])
    assert np.isfinite(psnr).sum() == JUDGED["decoded"]
    assert metrics["psnr"] == pytest.approx(np.nanmean(psnr), rel=1e-6)
    scores, labels = (np.concatenate([getattr(p, n) for p in parts]) for n in ("scores", "labels"))
    names = json.loads((output / "evaluation.json").read_text())["attributes"]
    k = names.index("Male")
    assert metrics["auc/Male"] == pytest.approx(roc_auc_score(labels[:, k], scores[:, k]), abs=5e-3)


def test_the_record_has_metrics_pictures_and_the_judge(evaluated):
    output, metrics = evaluated
    run = read_run_id(str(output))
    client = MlflowClient(run.uri)
    record = client.get_run(run.run_id)
    assert record.data.tags["facevae.judge"] == "mtcnn_onet"
    for name in ("auc/mean", "psnr", "ssim", "frechet", "frechet_floor", "kl/mean"):
        assert record.data.metrics[name] == pytest.approx(metrics[name])
    assert metrics["frechet_floor"] < metrics["frechet"]  # random weights draw no faces
    pictures = {"scores.png", "kl.png", "reconstructions.png", "evaluation.json"}
    assert {file.path for file in client.list_artifacts(run.run_id)} >= pictures
    details = json.loads((output / "evaluation.json").read_text())
    assert details["not_judged"]
    judged = {name.partition("/")[2] for name in metrics if name.startswith("edit_success/")}
    assert judged - {"mean"} == set(details["leakage"]["edited"])
    assert not judged & set(details["not_judged"])
    assert metrics["identity_kept/mean"] != metrics["identity_kept/mean"]  # NaN: an O-Net


def test_one_actor_that_goes_on_gives_the_bytes_of_two(model, shards, vectors, evaluated, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(evaluated[0], output)
    for name in ("result.json", "images.parquet", "measures/val-00000.npz"):
        (output / name).unlink()
    kept = output / "measures" / "test-00000.npz"
    before = kept.stat().st_mtime_ns
    found = evaluate(model, shards, vectors, output, actors=1)
    assert kept.stat().st_mtime_ns == before
    for name in ("images.parquet", "measures/val-00000.npz"):
        assert (output / name).read_bytes() == (evaluated[0] / name).read_bytes(), name
    rate = "images_per_second"
    assert {**found, rate: 0} == pytest.approx({**evaluated[1], rate: 0}, nan_ok=True)


def test_a_finished_one_is_done_and_another_is_refused(model, shards, vectors, evaluated, capsys):
    output, metrics = evaluated
    assert evaluate(model, shards, vectors, output) == pytest.approx(metrics, nan_ok=True)
    assert "already done" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"another evaluation\.decoded"):
        evaluate(model, shards, vectors, output, decoded=41)


def test_without_a_judge_the_rest_is_measured(model, shards, vectors, tmp_path, capsys):
    metrics = evaluate(model, shards, vectors, tmp_path / "out", judge="auto")
    assert np.isnan(metrics["edit_success/mean"])
    assert np.isfinite([metrics["auc/mean"], metrics["psnr"], metrics["frechet"]]).all()
    assert "no edit is judged: which network the model's loss used is not known" in (
        capsys.readouterr().err
    )
    details = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "is not known here" in details["reasons"]["leakage/mean"]
    assert not list((tmp_path / "out" / "measures").glob("train-*"))
