"""`edit --image FOLDER`: photos by Ray Data, failures as rows, and going on."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from facevae.attributes.hdf5 import write_hdf5
from facevae.attributes.vectors import AttributeVectors, LatentBatch
from facevae.commands.edit import edit_faces
from facevae.commands.plan import dry_run
from facevae.config import EditConfig, ModelConfig
from facevae.models import build_vae
from facevae.models.checkpoint import ModelCard, save_model

pytestmark = pytest.mark.usefixtures("ray_cluster")
MODEL = ModelConfig(latent_size=2)


def config(folder: Path, **settings: object) -> EditConfig:
    return EditConfig(
        output=str(folder / "edit"),
        model=str(folder / "model"),
        vectors=str(folder),
        image=str(folder / "photos"),
        editing={"mix": ["Smiling=2"]},
        tracking={"system_metrics": False},
        **settings,
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model, vectors, and three photos, one of which shows a face."""
    (tmp_path / "model").mkdir()
    torch.manual_seed(0)
    card = save_model(
        tmp_path / "model", build_vae(MODEL).state_dict(), ModelCard(MODEL, 1, "s", "")
    )
    vectors = AttributeVectors(
        names=("Smiling",),
        vectors=np.array([[5, -5]], np.float32),
        positive_count=np.array([4]),
        negative_count=np.array([4]),
        standard_errors=np.zeros((1, 2), np.float32),
        valid=np.array([True]),
        model_digest=card.digest,
    )
    latents = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    labels = np.array([[-1], [1]] * 4, np.int8)
    batch = LatentBatch([str(i) for i in range(8)], ["train"] * 8, latents, labels)
    write_hdf5(tmp_path / "attribute_vectors.h5", vectors, [batch], 8)
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    Image.fromarray(skimage.data.astronaut()).save(photos / "trip" / "astronaut.png")
    Image.new("RGB", (200, 200), "grey").save(photos / "wall.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    (photos / "notes.txt").write_text("not a photo")
    return tmp_path


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "edit" / "photos.csv").open() as table:
        return {row["image"]: row for row in csv.DictReader(table)}


def test_a_folder_of_photos_is_edited_and_gone_on_with(folder, capsys):
    assert "3 photos" in dry_run("edit", config(folder))[-1]
    metrics = edit_faces(config(folder))
    assert metrics == {"photos": 3, "edited": 1, "failed": 2}
    found = rows(folder)
    assert set(found) == {"broken.jpg", "trip/astronaut.png", "wall.png"}
    assert "no face is found in wall.png" in found["wall.png"]["failed"]
    assert "broken.jpg cannot be read as a photo" in found["broken.jpg"]["failed"]
    edited = found["trip/astronaut.png"]
    assert (edited["failed"], edited["faces"]) == ("", "1")
    target = folder / "edit" / "photos" / "trip" / "astronaut.png"
    after = np.asarray(Image.open(target / "photo.png"))
    changed = (after != skimage.data.astronaut()).any(axis=2).mean()
    assert 0.001 < changed < 0.2
    card = target / "card.json"
    assert json.loads(card.read_text())["photo"]["name"] == "astronaut.png"
    capsys.readouterr()
    assert edit_faces(config(folder)) == metrics
    assert "already done" in capsys.readouterr().err
    written = card.stat().st_mtime_ns
    shutil.copy(folder / "photos" / "trip" / "astronaut.png", folder / "photos" / "again.png")
    assert edit_faces(config(folder)) == {"photos": 4, "edited": 2, "failed": 2}
    assert card.stat().st_mtime_ns == written  # the others are not edited again
    again = folder / "edit" / "photos" / "again.png" / "photo.png"
    np.testing.assert_array_equal(np.asarray(Image.open(again)), after)
