"""The model is logged and registered once, even if a try breaks off or is repeated."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from facevae.config import ModelConfig, TrackingConfig
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model
from facevae.tracking import log_model, start_run, store_uri
from facevae.tracking.models import MODEL_DIGEST_TAG


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    config = ModelConfig(latent_size=4)
    save_model(folder, build_vae(config).state_dict(), ModelCard(config, 1, "digest", "run"))
    return folder


def test_a_model_whose_upload_broke_off_is_logged_and_registered_once(model, tmp_path, monkeypatch):
    upload, tries = MlflowClient.log_model_artifacts, []

    def broken(self, *arguments, **named):
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionResetError(104, "Connection reset by peer")
        return upload(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", broken)
    faces = np.zeros((2, 64, 64, 3), np.uint8)
    uris = set()
    for _ in range(2):  # the second time as after a server that was away too long
        tracking = TrackingConfig(system_metrics=False)
        with start_run(tracking, "train", str(tmp_path / "out"), {"a": 1}) as run:
            uris.add(log_model(run, model, faces, "faces"))
    (uri,) = uris
    client = MlflowClient(run.id.uri)
    experiment = client.get_run(run.id.run_id).info.experiment_id
    assert [each.model_uri for each in client.search_logged_models([experiment])] == [uri]
    (version,) = client.search_model_versions("name = 'faces'")
    assert version.source == uri
    assert len(tries) == 2


@pytest.mark.parametrize("has_tag", [True, False])
def test_a_run_that_was_made_longer_logs_its_new_weights_beside_the_old(model, tmp_path, has_tag):
    """Also where an earlier version logged the old ones, which left their digest in the card."""
    tracking, faces = TrackingConfig(system_metrics=False), np.zeros((2, 64, 64, 3), np.uint8)
    config = ModelConfig(latent_size=4)
    with start_run(tracking, "train", str(tmp_path / "out"), {"a": 1}) as run:
        uris = [log_model(run, model, faces, "faces")]
        client = MlflowClient(run.id.uri)
        if not has_tag:
            client.delete_logged_model_tag(uris[0].removeprefix("models:/"), MODEL_DIGEST_TAG)
        uris += [log_model(run, model, faces, "faces")]
        torch.manual_seed(1)
        card = ModelCard(config, 2, "digest", "run")
        save_model(model, build_vae(config).state_dict(), card)
        uris += [log_model(run, model, faces, "faces") for _ in range(2)]
    first, again, second, last = uris
    assert first == again != second == last
    versions = client.search_model_versions("name = 'faces'")
    assert sorted((version.version, version.source) for version in versions) == [
        (1, first),
        (2, second),
    ]


def test_a_model_of_an_earlier_version_is_loaded(model, tmp_path):
    """MLflow keeps the code that loads a model; this is that of the models logged so far."""
    code = tmp_path / "logged_model.py"
    code.write_text(
        "from facevae.tracking import ReconstructionModel, set_model\n\n"
        "set_model(ReconstructionModel())\n"
    )
    mlflow.pyfunc.save_model(
        str(tmp_path / "logged"),
        python_model=str(code),
        artifacts={"checkpoint": str(model)},
        pip_requirements=[],
    )
    faces = np.zeros((2, 64, 64, 3), np.uint8)
    drawn = mlflow.pyfunc.load_model(str(tmp_path / "logged")).predict(faces)
    assert (drawn.shape, drawn.dtype) == (faces.shape, np.uint8)


@pytest.mark.parametrize("uri", [None, "sqlite:///s3://bucket/runs/mlflow.db"])
def test_an_sqlite_store_in_object_storage_is_refused(uri):
    with pytest.raises(UserError, match="name a tracking server with MLFLOW_TRACKING_URI"):
        store_uri(TrackingConfig(uri=uri), "s3://bucket/runs/x")


def test_a_server_goes_with_object_storage():
    config = TrackingConfig(uri="http://server:5000")
    assert store_uri(config, "s3://bucket/runs/x") == "http://server:5000"
