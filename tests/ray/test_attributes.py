"""The attribute pass on Ray: exact, the same for any number of actors, taken up again, recorded."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from facevae.attributes.encode import encode_shards
from facevae.attributes.hdf5 import read_vectors
from facevae.commands.attributes import compute_attributes
from facevae.commands.edit import edit_faces
from facevae.commands.shards import shard_faces
from facevae.config import (
    AttributesConfig,
    EditConfig,
    EncodingConfig,
    ModelConfig,
    ShardsConfig,
)
from facevae.data.shard_files import read_manifest
from facevae.errors import UserError
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, load_model, save_model
from facevae.ray_cluster.placement import ActorPlan
from facevae.tracking import read_run_id

QUIET = {"system_metrics": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with random weights: the pass must be exact for any."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = ModelConfig(latent_size=12)
    card = ModelCard(config, 0, "shards", "run")
    save_model(folder, build_vae(config).state_dict(), card)
    return folder


def compute(model, shards, output, **encoding) -> dict[str, float]:
    return compute_attributes(
        AttributesConfig(
            output=str(output),
            shards=str(shards),
            model=str(model),
            encoding={"batch_size": 32, "min_count": 5} | encoding,
            tracking=QUIET,
        )
    )


@pytest.fixture(scope="module")
def vectors(model, shards, tmp_path_factory) -> Path:
    """The output of a pass with two actors."""
    output = tmp_path_factory.mktemp("attributes") / "two"
    compute(model, shards, output, actors=2)
    return output


def test_vectors_equal_a_two_pass_over_all_latents(vectors):
    with h5py.File(vectors / "attribute_vectors.h5") as file:
        train = np.array([split == b"train" for split in file["splits"][:]])
        latents, labels = file["latent_vars"][:][train], file["attributes"][:][train]
    found = read_vectors(vectors / "attribute_vectors.h5")
    for k in np.flatnonzero(found.valid):
        expected = latents[labels[:, k] > 0].mean(axis=0) - latents[labels[:, k] < 0].mean(axis=0)
        np.testing.assert_allclose(found.vectors[k], expected.astype(np.float32), atol=1e-9)


def test_one_actor_gives_the_bytes_of_two(model, shards, vectors, tmp_path):
    compute(model, shards, tmp_path / "one", actors=1)
    for name in ("attribute_vectors.h5", "statistics/train-00002.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (vectors / name).read_bytes(), name


def test_the_form_for_gpus_gives_the_bytes_of_that_for_cpus(model, shards, tmp_path, monkeypatch):
    """Tasks that read and decode, and actors that only encode; here these do so on a CPU."""
    on_cpus = ActorPlan(1, 0.5, False, {}, {})
    config = EncodingConfig(batch_size=32, precision="fp32")
    manifest = read_manifest(str(shards))

    def encode(plan: ActorPlan, output: Path) -> dict[str, bytes]:
        loaded = load_model(model)
        done = encode_shards(str(shards), manifest, loaded, config, plan, str(output))
        assert done.images == manifest.rows()
        files = sorted(output.glob("*/*.*"))
        assert len(files) == 2 * len(manifest.shards)
        return {file.name: file.read_bytes() for file in files}

    expected = encode(on_cpus, tmp_path / "cpu")
    monkeypatch.setattr(ActorPlan, "device", "cpu")
    monkeypatch.setattr(ActorPlan, "resources", {"num_cpus": 0.5})
    assert encode(on_cpus._replace(use_gpu=True), tmp_path / "gpu") == expected


def test_another_cut_into_shards_gives_the_same_vectors(model, vectors, tmp_path):
    shard_faces(
        ShardsConfig(
            output=str(tmp_path / "shards"),
            drawn={"count": 600, "seed": 3},
            sharding={"image_size": 64, "images_per_shard": 70},
            tracking=QUIET,
        )
    )
    compute(model, tmp_path / "shards", tmp_path / "out", actors=2)
    one, other = (read_vectors(p / "attribute_vectors.h5") for p in (vectors, tmp_path / "out"))
    scale = np.nanmax(np.abs(one.vectors))
    # Stored as float32: a difference of 1e-12 rounds to the same number, or to its neighbour.
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-7 * scale)
    with h5py.File(vectors / "attribute_vectors.h5") as a, \
            h5py.File(tmp_path / "out" / "attribute_vectors.h5") as b:  # fmt: skip
        np.testing.assert_array_equal(a["latent_vars"][:], b["latent_vars"][:])


def test_a_second_run_encodes_only_what_is_missing(model, shards, vectors, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(vectors, output)
    for name in ("result.json", "attribute_vectors.h5", "statistics/train-00001.npz"):
        (output / name).unlink()
    kept = output / "latents" / "train-00000.parquet"
    before = kept.stat().st_mtime_ns
    compute(model, shards, output, actors=1)
    assert kept.stat().st_mtime_ns == before
    name = "attribute_vectors.h5"
    assert (output / name).read_bytes() == (vectors / name).read_bytes()


def test_every_image_is_there_once_with_its_name(vectors, shards):
    with h5py.File(vectors / "attribute_vectors.h5") as file:
        ids = sorted(name.decode() for name in file["image_ids"][:])
        assert file["latent_vars"].shape == (600, 12)
        assert file["attributes"].shape == (600, 40)
        assert file["attribute_vectors"].shape == (40, 12)
        assert file.attrs["shards_digest"].decode() == read_manifest(str(shards)).digest
    assert ids == [f"{i:06d}.jpg" for i in range(1, 601)]


def test_the_run_is_linked_and_has_its_pictures(vectors):
    run = read_run_id(str(vectors))
    client = MlflowClient(run.uri)
    record = client.get_run(run.run_id)
    assert record.data.tags["facevae.training_run"] == "run"
    assert record.data.tags["facevae.shards_run"]
    assert {file.path for file in client.list_artifacts(run.run_id)} >= {
        "attribute_vectors.h5", "auc.png", "similarity.png",
    }  # fmt: skip


def edit(model, vectors, output, **editing) -> dict[str, float]:
    config = EditConfig(
        output=str(output), model=str(model), vectors=str(vectors), editing=editing, tracking=QUIET
    )
    return edit_faces(config)


def test_the_preset_makes_the_originals_grid_and_prints_names(model, vectors, tmp_path, capsys):
    from PIL import Image

    edit(model, vectors, tmp_path / "edit", preset="facenet_smile")
    assert Image.open(tmp_path / "edit" / "edit.png").size == (1343, 539)
    assert capsys.readouterr().err.count(".jpg") >= 16


def test_another_edit_in_the_same_folder_is_a_run_of_its_own(model, vectors, tmp_path):
    def run() -> tuple[str, dict[str, str], dict[str, float]]:
        found = read_run_id(str(tmp_path / "edit"))
        data = MlflowClient(found.uri).get_run(found.run_id).data
        return found.run_id, data.params, data.metrics

    runs = []
    for strengths in ((0.0, 1.0), (0.0, 1.0, 2.0), (0.0, 1.0, 2.0)):
        edit(model, vectors, tmp_path / "edit", strengths=strengths, attribute=("Smiling",))
        runs.append(run())
    (first, *_), (second, params, metrics), (third, *_) = runs
    assert first != second == third
    assert params["editing.strengths"] == "[0.0, 1.0, 2.0]"
    assert metrics["strengths"] == 3


@pytest.mark.parametrize(
    ("editing", "message"),
    [
        ({"attribute": ["Smilling"]}, "Smiling"),
        ({"image_ids": ["nobody.jpg"]}, "no image 'nobody.jpg'"),
    ],
)
def test_edits_that_cannot_be_are_refused(model, vectors, tmp_path, editing, message):
    with pytest.raises(UserError, match=message):
        edit(model, vectors, tmp_path / "edit", **editing)


def test_an_edit_refuses_to_replace_a_picture_that_it_did_not_draw(model, vectors, tmp_path):
    (tmp_path / "edit.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"edit\.png is not of this program"):
        edit(model, vectors, tmp_path)
    assert (tmp_path / "edit.png").read_bytes() == b"mine"


def test_vectors_of_another_model_are_refused(vectors, tmp_path):
    torch.manual_seed(1)
    config = ModelConfig(latent_size=12)
    (tmp_path / "other").mkdir()
    card = ModelCard(config, 0, "shards", "run")
    save_model(tmp_path / "other", build_vae(config).state_dict(), card)
    with pytest.raises(UserError, match="come from model"):
        edit(tmp_path / "other", vectors, tmp_path / "edit")


def test_latents_of_another_model_in_the_folder_are_refused(shards, vectors, tmp_path):
    torch.manual_seed(1)
    config = ModelConfig(latent_size=12)
    (tmp_path / "other").mkdir()
    save_model(
        tmp_path / "other", build_vae(config).state_dict(), ModelCard(config, 0, "shards", "run")
    )
    with pytest.raises(UserError, match="another model_digest"):
        compute(tmp_path / "other", shards, vectors)
